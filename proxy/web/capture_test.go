package web

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

const (
	oauthSecret  = "ssv_Zq81Lw0pRUN00001clientclientclientclient"
	oauthRefresh = "ssv_Zq81Lw0pRUN00001refreshrefreshrefresh"
	realSecret   = "real-client-secret/of+the=provider"
)

// vault keeps a login, as secretd does.
type vault struct {
	mu      sync.Mutex
	refresh string
	renewed []string
	err     error
}

func (v *vault) Resolve(_ context.Context, r api.ResolveRequest) (api.Secret, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	value := []byte(realSecret)
	if r.Placeholder == oauthRefresh {
		value = []byte(v.refresh)
	}
	return func() []byte { return value }, nil
}

func (v *vault) Renew(_ context.Context, r api.Renewal) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err != nil {
		return v.err
	}
	v.renewed = append(v.renewed, string(r.Refresh))
	v.refresh = string(r.Refresh)
	return nil
}

func (v *vault) swapper(t testing.TB) *swap.Swapper {
	use, err := api.ParseUse("oauth")
	if err != nil {
		t.Fatal(err)
	}
	b := api.Binding{Hosts: []api.Pattern{{Host: testHost}}, Uses: []api.Use{use}}
	return swap.New([]api.Entry{
		{Name: "CLIENT_SECRET", Placeholder: oauthSecret, Binding: b}, {Name: "MY_REFRESH_TOKEN", Placeholder: oauthRefresh, Binding: b},
	}, v)
}

// provider is an authorization server and the API behind it, which rotates its tokens.
type provider struct {
	mu     sync.Mutex
	count  int
	shape  string // of the answers
	access string
	seen   []string
	cookie bool   // repeat a token in a cookie
	slow   func() // before /slow is answered
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	if r.URL.Path == "/slow" {
		slow := p.slow
		p.mu.Unlock()
		slow()
		w.Header().Set("Trailer", "X-End")
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		fmt.Fprintf(w, "you came with %s", r.Header.Get("Authorization"))
		w.Header().Set("X-End", r.Header.Get("Authorization"))
		return
	}
	defer p.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	if r.URL.Path != "/token" {
		if r.Header.Get("Authorization") != "Bearer "+p.access {
			w.WriteHeader(401)
		}
		fmt.Fprintf(w, "you came with %s", r.Header.Get("Authorization"))
		return
	}
	form, _ := url.ParseQuery(string(body))
	p.seen = append(p.seen, form.Get("client_secret")+" "+form.Get("refresh_token"))
	p.count++
	p.access = fmt.Sprintf("access-token-number-%d-REALREALREAL", p.count)
	text, _ := json.Marshal(map[string]any{"access_token": p.access, "refresh_token": fmt.Sprintf("refresh-token-number-%d-REALREAL", p.count), "expires_in": 3600, "pad": strings.Repeat("x", 20000)})
	w.Header().Set("Content-Type", "application/json")
	if p.cookie {
		w.Header().Set("Set-Cookie", "session="+p.access)
	}
	switch p.shape {
	case "gzip":
		w.Header().Set("Content-Encoding", "gzip")
		io.WriteString(w, gzipped(string(text)))
	case "chunked":
		for len(text) > 0 {
			n := min(len(text), 1000)
			w.Write(text[:n])
			w.(http.Flusher).Flush()
			text = text[n:]
		}
	case "page":
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<p>"+p.access)
	case "long":
		io.WriteString(w, `{"access_token":"`+p.access+`","pad":"`+strings.Repeat("x", swap.MaxAnswer)+`"}`)
	case "unknown coding":
		w.Header().Set("Content-Encoding", "x-secret")
		w.Write(text)
	case "not what it says":
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(text)
	case "cut":
		w.Header().Set("Content-Length", fmt.Sprint(len(text)+10))
		w.Write(text)
	case "error":
		w.WriteHeader(400)
		io.WriteString(w, `{"error":"invalid_grant"}`)
	case "partial":
		w.WriteHeader(206)
		w.Write(text)
	default:
		w.Header().Set("Content-Length", fmt.Sprint(len(text)))
		w.Write(text)
	}
}

// oauthRigs runs f over both versions of HTTP.
func oauthRigs(t *testing.T, f func(t *testing.T, c *http.Client, p *provider, v *vault)) {
	t.Run("http1", func(t *testing.T) {
		rig, p, v := newH1Rig(t), &provider{}, &vault{refresh: "refresh-token-number-0-REALREAL"}
		rig.server.swap = v.swapper(t)
		rig.handle(p.ServeHTTP)
		f(t, rig.client(), p, v)
	})
	t.Run("http2", func(t *testing.T) {
		rig, p, v := newH2Rig(t), &provider{}, &vault{refresh: "refresh-token-number-0-REALREAL"}
		rig.server.swap = v.swapper(t)
		rig.handle(p.ServeHTTP)
		f(t, rig.client(), p, v)
	})
}

// askTokens posts a request for tokens and returns status, reason and body.
func askTokens(t testing.TB, c *http.Client, form url.Values) (int, string, string) {
	t.Helper()
	req := newRequest(t, "POST", "/token", strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("X-Superserve-Error"), string(body)
}

func refreshForm() url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {oauthRefresh}, "client_secret": {oauthSecret}}
}

func TestTokensAreCaptured(t *testing.T) {
	oauthRigs(t, func(t *testing.T, c *http.Client, p *provider, v *vault) {
		for i, shape := range []string{"", "gzip", "chunked"} {
			p.mu.Lock()
			p.shape = shape
			p.mu.Unlock()
			before := v.refresh
			status, _, body := askTokens(t, c, refreshForm())
			var got struct {
				Access  string `json:"access_token"`
				Refresh string `json:"refresh_token"`
				Expires int    `json:"expires_in"`
			}
			if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 || strings.Contains(body, "REAL") || got.Expires != 3600 {
				t.Fatalf("%q: %d %.300s, %v", shape, status, body, err)
			}
			if p.seen[i] != realSecret+" "+before {
				t.Errorf("%q: the provider saw %q; want the real client secret and %q", shape, p.seen[i], before)
			}
			if got.Refresh != oauthRefresh || len(v.renewed) != i+1 || v.renewed[i] == before {
				t.Errorf("%q: refresh token %q, stored %q; want the same placeholder and the new token stored", shape, got.Refresh, v.renewed)
			}
			req := newRequest(t, "GET", "/api", nil)
			req.Header.Set("Authorization", "Bearer "+got.Access)
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			echo, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != 200 || strings.Contains(string(echo), "REAL") || !strings.Contains(string(echo), "Bearer ") {
				t.Errorf("%q: the API answered %d %s", shape, res.StatusCode, echo)
			}
		}
	})
}

func TestUncapturedAnswersAreRefused(t *testing.T) {
	oauthRigs(t, func(t *testing.T, c *http.Client, p *provider, v *vault) {
		for _, shape := range []string{"page", "long", "unknown coding", "not what it says", "partial", "cut"} {
			p.mu.Lock()
			p.shape = shape
			p.mu.Unlock()
			status, reason, body := askTokens(t, c, refreshForm())
			if status != 502 || reason != swap.ReasonUncaptured && reason != "upstream_malformed" || strings.Contains(body, "REAL") {
				t.Errorf("%s: got %d %q %.200s; want 502", shape, status, reason, body)
			}
		}
		p.mu.Lock()
		p.shape = "error"
		p.mu.Unlock()
		if status, _, body := askTokens(t, c, refreshForm()); status != 400 || body != `{"error":"invalid_grant"}` {
			t.Errorf("got %d %s; want the provider's own error", status, body)
		}
		if status, reason, _ := askTokens(t, c, url.Values{"grant_type": {"authorization_code"}, "code": {"attackers"}}); status != 403 || reason != swap.ReasonForeign {
			t.Errorf("a grant without a secret of ours: %d %q", status, reason)
		}
	})
}

func TestLoginOutlivesItsKeeper(t *testing.T) {
	oauthRigs(t, func(t *testing.T, c *http.Client, p *provider, v *vault) {
		v.mu.Lock()
		v.err = api.ErrNotFound // at once, where ErrUnavailable is tried again
		v.mu.Unlock()
		status, reason, body := askTokens(t, c, refreshForm())
		if status != 503 || reason != swap.ReasonUnavailable || strings.Contains(body, "REAL") {
			t.Fatalf("got %d %q %s; want that nothing is passed on that is not stored", status, reason, body)
		}
		v.mu.Lock()
		v.err = nil
		v.mu.Unlock()
		if status, _, body := askTokens(t, c, refreshForm()); status != 200 || strings.Contains(body, "REAL") {
			t.Fatalf("got %d %s", status, body)
		}
		if want := realSecret + " refresh-token-number-1-REALREAL"; p.seen[1] != want {
			t.Errorf("the provider saw %q; want %q, the token that could not be stored", p.seen[1], want)
		}
		if len(v.renewed) != 1 || v.renewed[0] != "refresh-token-number-2-REALREAL" {
			t.Errorf("stored %q", v.renewed)
		}
	})
}
