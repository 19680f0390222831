//go:build e2e

package e2e

import (
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// oauthModules are the Node clients that sign and fetch tokens.
const oauthModules = "testdata/oauth/node_modules"

// keyPEM is a new private key in PKCS #8.
func keyPEM(t testing.TB, kind string) string {
	t.Helper()
	var k any
	var err error
	if kind == "rsa" {
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// google plays Google: a token endpoint that takes assertions which PyJWT verifies with the real key, and APIs that take
// what it gave. It is safe for concurrent use.
type google struct {
	t    testing.TB
	keys string // folder of the real keys

	mu    sync.Mutex
	given map[string]bool
}

// verified asks PyJWT.
func (g *google) verified(alg, key, audience, token string) (string, bool) {
	cmd := exec.Command("/usr/bin/python3", "testdata/oauth/verify.py", alg, filepath.Join(g.keys, key), audience)
	cmd.Stdin = strings.NewReader(token)
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err == nil
}

func (g *google) give() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	token := fmt.Sprintf("ya29.Zk3yRealTokenReal%04dRealRealRealReal", len(g.given))
	g.given[token] = true
	return token
}

// giveID gives a token whose signature nobody checks.
func (g *google) giveID(audience string) string {
	part := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	sum := sha256.Sum256([]byte("Zk3yReal"))
	token := part(map[string]string{"alg": "RS256"}) + "." + part(map[string]any{"aud": audience, "exp": 4102444800, "iat": 1}) + "." +
		base64.RawURLEncoding.EncodeToString(append(sum[:], sum[:]...))
	g.mu.Lock()
	defer g.mu.Unlock()
	g.given[token] = true
	return token
}

func (g *google) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch r.Host {
	case "oauth2.googleapis.com":
		g.token(w, r)
		return
	case "api.jwt.example":
		alg := strings.TrimPrefix(r.URL.Path, "/")
		if _, ok := g.verified(alg, alg, "", token); !ok {
			w.WriteHeader(http.StatusUnauthorized)
		}
	case "pubsub.googleapis.com":
		if _, ok := g.verified("RS256", "gcp", "https://pubsub.googleapis.com/", token); !ok {
			w.WriteHeader(http.StatusUnauthorized)
		}
	default:
		g.mu.Lock()
		defer g.mu.Unlock()
		if !g.given[token] {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	if r.Host == "api.jwt.example" {
		io.WriteString(w, "ok")
		return
	}
	fmt.Fprintf(w, "you came with %s", r.Header.Get("Authorization"))
}

func (g *google) token(w http.ResponseWriter, r *http.Request) {
	audience, ok := g.verified("RS256", "gcp", "https://oauth2.googleapis.com/token", r.FormValue("assertion"))
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if !ok || r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, `{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}`)
		return
	}
	w.Header().Set("Content-Encoding", "gzip") // whatever was asked for
	out := gzip.NewWriter(w)
	defer out.Close()
	if audience != "" {
		json.NewEncoder(out).Encode(map[string]any{"id_token": g.giveID(audience)})
		return
	}
	json.NewEncoder(out).Encode(map[string]any{"access_token": g.give(), "expires_in": 3599, "token_type": "Bearer"})
}

// tokenLines is what the two clients print when each token that they signed was signed anew, and what was not theirs to
// sign was refused.
const tokenLines = `pyjwt HS256 200 ok
pyjwt HS384 200 ok
pyjwt HS512 200 ok
pyjwt RS256 200 ok
pyjwt ES256 200 ok
pyjwt none 403 credential_signature
pyjwt other 403 credential_signature
google-auth 200 1 False
google-auth 200 1 False
google-auth self-signed 200
google-auth id token 200
jsonwebtoken HS256 200 ok
jsonwebtoken HS512 200 ok
jsonwebtoken RS256 200 ok
jsonwebtoken ES256 200 ok
google-auth-library 200 1
google-auth-library 200 1
google-auth-library self-signed 200
google-auth-library id token 200
`

// TestSignedTokens: PyJWT, jsonwebtoken and Google's libraries sign with what the environment holds, and PyJWT verifies
// upstream with the real keys.
func TestSignedTokens(t *testing.T) {
	hosts := []string{"api.jwt.example", "oauth2.googleapis.com", "storage.googleapis.com", "pubsub.googleapis.com", "run.googleapis.com"}
	w := newWorld(t, hosts...)
	g := &google{t: t, keys: t.TempDir(), given: map[string]bool{}}
	for _, h := range hosts {
		w.extra[h] = g
	}
	account, err := json.MarshalIndent(map[string]string{
		"type": "service_account", "project_id": "p", "private_key_id": "0123456789", "private_key": keyPEM(t, "rsa"), "client_id": "1",
		"client_email": "agent@p.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token",
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Key string `json:"private_key"`
	}
	if err := json.Unmarshal(account, &parsed); err != nil {
		t.Fatal(err)
	}
	secret, rsaKey, ecKey := "Zk3yRealSecretOfAllTokensRealRealReal0099", keyPEM(t, "rsa"), keyPEM(t, "ec")
	for name, key := range map[string]string{"HS256": secret, "HS384": secret, "HS512": secret, "RS256": rsaKey, "ES256": ecKey, "gcp": parsed.Key} {
		if err := os.WriteFile(filepath.Join(g.keys, name), []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{"JWT_SECRET": secret, "RSA_KEY": rsaKey, "EC_KEY": ecKey} {
		w.set("signer", name, value, "--host", "api.jwt.example", "--use", "jwt")
	}
	w.set("signer", "GCP_SERVICE_ACCOUNT_KEY", string(account))
	w.real["the account's key"] = parsed.Key
	modules, err := filepath.Abs(oauthModules)
	if err != nil {
		t.Fatal(err)
	}
	dir := project(t, map[string]string{
		"superserve.yaml": "name: signer\ncommand: sh main.sh\nsecrets: [JWT_SECRET, RSA_KEY, EC_KEY, GCP_SERVICE_ACCOUNT_KEY]\n",
		"main.sh":         "/usr/bin/python3 tokens.py\nnode tokens.mjs\n",
	})
	for _, name := range []string{"tokens.py", "tokens.mjs"} {
		copyFile(t, filepath.Join("testdata/oauth", name), filepath.Join(dir, name))
	}
	r := w.run(dir, "--mount", modules+":/node_modules:ro")
	g.mu.Lock()
	for token := range g.given {
		w.real["token "+token] = token
	}
	g.mu.Unlock()
	var lines []string
	for line := range strings.Lines(r.stdout) {
		if !strings.HasPrefix(line, "seen ") {
			lines = append(lines, line)
		}
	}
	if got := strings.Join(lines, ""); r.code != 0 || got != tokenLines {
		t.Errorf("exit %d, stdout %s\nwant %s\nstderr: %s", r.code, got, tokenLines, r.stderr)
	}
	w.wantClean(t, "output", r.stdout+r.stderr)
	w.scanState(t)
}
