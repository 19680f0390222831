//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// oauthSecret has what Basic credentials have to escape (RFC 6749 §2.3.1).
const oauthSecret = "Zk3yReal+Client/Secret=Real:Real%0099"

// anyToken finds tokens in what a provider answers.
var anyToken = regexp.MustCompile(`"?(access_token|refresh_token|id_token)"?[=:]\s*"?([^"&,}]+)`)

// front is the TLS end of an authorization server, which notes the tokens that it gives. It is safe for concurrent use.
type front struct {
	proxy *httputil.ReverseProxy

	mu     sync.Mutex
	tokens map[string]bool
}

func (f *front) note(body []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range anyToken.FindAllSubmatch(body, -1) {
		f.tokens[string(m[2])] = true
	}
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.proxy.ServeHTTP(w, r) }

// authorizationServer starts oidc-provider.
func authorizationServer(t *testing.T, issuer, secret string) *front {
	t.Helper()
	at, err := url.Parse("http://" + socketServer(t, "testdata/oauth", "node", "provider.mjs", issuer, secret))
	if err != nil {
		t.Fatal(err)
	}
	f := &front{tokens: map[string]bool{}}
	f.proxy = &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(at)
			p.Out.Host = p.In.Host
			p.Out.Header.Set("X-Forwarded-Proto", "https")
			p.Out.Header.Set("X-Forwarded-Host", p.In.Host)
		},
		ModifyResponse: func(r *http.Response) error {
			if r.Request.URL.Path != "/token" {
				return nil
			}
			body, err := io.ReadAll(r.Body)
			f.note(body)
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			return err
		},
	}
	return f
}

// api answers those whose access token the authorization server knows.
func (f *front) api(w http.ResponseWriter, r *http.Request) {
	r.URL.Path, r.Host = "/me", "auth.example"
	f.proxy.ServeHTTP(w, r)
}

// forms answers as GitHub does: a form, and "token" in place of Bearer.
func (f *front) forms(w http.ResponseWriter, r *http.Request) {
	const token = "gho_Zk3yRealFormReal0Real0Real0Real0Real"
	if r.URL.Path != "/user" {
		body := "access_token=" + token + "&scope=repo%2Cuser&token_type=bearer"
		f.note([]byte(body))
		w.Header().Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		if r.FormValue("client_secret") != oauthSecret {
			body = "error=incorrect_client_credentials"
		}
		io.WriteString(w, body)
		return
	}
	if r.Header.Get("Authorization") != "token "+token {
		w.WriteHeader(http.StatusUnauthorized)
	}
	fmt.Fprint(w, r.Header)
}

const oauthLines = `requests-oauthlib code 200 ['access_token', 'id_token', 'refresh_token'] True
requests-oauthlib refresh 200 ['access_token', 'id_token', 'refresh_token'] True
rotated True
the old one 400 invalid_grant
requests-oauthlib client 401 ['access_token'] True
authlib code 200 ['access_token', 'id_token', 'refresh_token'] True
authlib refresh 200 ['access_token', 'id_token', 'refresh_token'] True
form 200 repo,user 200
no secret of ours 403 credential_not_allowed
elsewhere 200 nothing came
openid-client code 200 access_token,id_token,refresh_token
userinfo someone
openid-client refresh 200 access_token,id_token,refresh_token
openid-client client 401 access_token
simple-oauth2 code 200 access_token,id_token,refresh_token
simple-oauth2 refresh 200 access_token,id_token,refresh_token
`

// TestOAuth: four client libraries get tokens from an authorization server that none of them nor we wrote, by code, refresh
// and client credentials, and use them. Neither the client's secret nor any token is in the sandbox.
func TestOAuth(t *testing.T) {
	hosts := []string{"auth.example", "api.example", "forms.example", "elsewhere.example"}
	w := newWorld(t, hosts...)
	f := authorizationServer(t, "https://auth.example", oauthSecret)
	w.extra["auth.example"], w.extra["api.example"], w.extra["forms.example"] = f, http.HandlerFunc(f.api), http.HandlerFunc(f.forms)
	w.extra["elsewhere.example"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for token := range f.tokens {
			if strings.Contains(r.Header.Get("Authorization"), token) {
				io.WriteString(w, "a token came")
			}
		}
		io.WriteString(w, "nothing came")
	})
	w.set("oauth", "OAUTH_CLIENT_SECRET", oauthSecret, "--host", "auth.example", "--host", "forms.example", "--use", "oauth", "--use", "oauth:api.example")
	modules, err := filepath.Abs(oauthModules)
	if err != nil {
		t.Fatal(err)
	}
	dir := project(t, map[string]string{
		"superserve.yaml": "name: oauth\ncommand: sh main.sh\nsecrets: [OAUTH_CLIENT_SECRET]\n",
		"main.sh":         "/usr/bin/python3 oauth.py\nnode oauth.mjs\n",
	})
	for _, name := range []string{"oauth.py", "oauth.mjs"} {
		copyFile(t, filepath.Join("testdata/oauth", name), filepath.Join(dir, name))
	}
	r := w.run(dir, "--mount", modules+":/node_modules:ro")
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.tokens) < 20 {
		t.Errorf("%d tokens were given; want those of ten grants", len(f.tokens))
	}
	for token := range f.tokens {
		w.real["token "+token] = token
	}
	var lines []string
	for line := range strings.Lines(r.stdout) {
		if !strings.HasPrefix(line, "seen ") {
			lines = append(lines, line)
		}
	}
	if got := strings.Join(lines, ""); r.code != 0 || got != oauthLines {
		t.Errorf("exit %d, stdout %s\nwant %s\nstderr: %s", r.code, got, oauthLines, r.stderr)
	}
	w.wantClean(t, "output", r.stdout+r.stderr)
	w.scanState(t)
}
