package swap

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/superserve/superserve/proxy/jwt"
	"github.com/superserve/superserve/secretd/api"
)

const (
	jwtFake = "ssv_7aRkEr99jwtjwtjwtjwtjwtjwtjwtjwt"
	jwtReal = "the-real-secret-that-signs-every-token"
)

func privateKey(t testing.TB, kind string) string {
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

// account is a Google service account's JSON.
func account(t testing.TB, key string) string {
	t.Helper()
	b, err := json.Marshal(map[string]string{"type": "service_account", "private_key": key, "client_email": "me@p.iam.gserviceaccount.com"})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// signed is a token that key signed.
func signed(t testing.TB, key, alg string) string {
	t.Helper()
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	input := part(`{"alg":"`+alg+`"}`) + "." + part(`{"sub":"me"}`)
	sig, err := jwt.NewKey([]byte(key)).Sign(&jwt.Token{Algorithm: alg, Input: []byte(input)}, jwt.Raw)
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + string(sig)
}

// wantSigned checks that text is what sent says, signed with the real key.
func wantSigned(t testing.TB, text, sent, real string) {
	t.Helper()
	tok, ok := jwt.Parse([]byte(text))
	if !ok || string(tok.Input) != sent[:strings.LastIndexByte(sent, '.')] {
		t.Fatalf("got %q; want the same header and claims", text)
	}
	if _, ok := jwt.NewKey([]byte(real)).Verify(&tok); !ok {
		t.Fatalf("%q is not signed with the real key", text)
	}
}

type tokenKeys struct{ rsaFake, rsaReal, ecFake, ecReal, gcpFake, gcpReal string }

func tokenSwapper(t testing.TB, allowOwn bool) (*Swapper, *tokenKeys) {
	k := &tokenKeys{rsaFake: privateKey(t, "rsa"), rsaReal: privateKey(t, "rsa"), ecFake: privateKey(t, "ec"), ecReal: privateKey(t, "ec"),
		gcpFake: account(t, privateKey(t, "rsa")), gcpReal: account(t, privateKey(t, "rsa"))}
	bind := func(name, placeholder, host string, list ...string) api.Entry {
		return api.Entry{Name: name, Placeholder: placeholder, Binding: api.Binding{Hosts: patterns(t, host), Uses: uses(t, list...), AllowOwn: allowOwn}}
	}
	return New([]api.Entry{
		bind("JWT_SECRET", jwtFake, "api.jwt.com", "jwt", "query:token", "header:x-token", "cookie:session"),
		bind("RSA_KEY", k.rsaFake, "api.rsa.com", "jwt"), bind("EC_KEY", k.ecFake, "api.rsa.com", "jwt"),
		bind("GCP_SERVICE_ACCOUNT_KEY", k.gcpFake, "*.googleapis.com", "gcp"),
	}, &values{of: map[string]string{jwtFake: jwtReal, k.rsaFake: k.rsaReal, k.ecFake: k.ecReal, k.gcpFake: k.gcpReal}}), k
}

// judged sends a request and returns the value of field, the target and the body as they go upstream.
func judged(t testing.TB, s *Swapper, host, target string, body string, lines ...string) (plan *Plan, fields []string, sentTarget, sentBody, reason string) {
	t.Helper()
	q := Request{Method: "POST", Target: []byte(target), Fields: fieldsOf(lines...)}
	at := hostTarget(host)
	if body != "" && s.WantsBody(&at, q.Fields) {
		q.Body = []byte(body)
	}
	plan, refusal := s.JudgeRequest(context.Background(), at, q)
	if refusal != nil {
		return nil, nil, "", "", refusal.Reason
	}
	for i, f := range q.Fields {
		value := string(f.Value)
		if plan != nil {
			for _, e := range plan.Edits {
				if e.Index == i {
					value = string(e.AppendValue(nil))
				}
			}
		}
		fields = append(fields, value)
	}
	sentTarget, sentBody = target, body
	if plan.Target() {
		sentTarget = string(plan.AppendTarget(nil))
	}
	if plan.Body() {
		sentBody = string(plan.AppendBody(nil))
	}
	return plan, fields, sentTarget, sentBody, ""
}

func hostTarget(host string) Target { return target(host) }

func TestTokensAreSignedAnew(t *testing.T) {
	s, k := tokenSwapper(t, false)
	for _, alg := range []string{"HS256", "HS384", "HS512"} {
		sent := signed(t, jwtFake, alg)
		plan, fields, _, _, reason := judged(t, s, "api.jwt.com", "/", "", "Authorization: Bearer "+sent)
		if reason != "" {
			t.Fatal(reason)
		}
		wantSigned(t, strings.TrimPrefix(fields[2], "Bearer "), sent, jwtReal)
		if u := plan.Secrets[0]; u.Name != "JWT_SECRET" || !u.Passing || !strings.HasSuffix(sent, u.Placeholder) || !strings.HasSuffix(fields[2], string(u.Secret())) {
			t.Errorf("%+v; want that answers are searched for the signature", u)
		}
	}
	sent := signed(t, jwtFake, "HS256")
	_, fields, path, _, reason := judged(t, s, "api.jwt.com", "/a?token="+sent+"&x=y", "", "X-Token: "+sent, "Cookie: session="+sent)
	if reason != "" {
		t.Fatal(reason)
	}
	wantSigned(t, fields[2], sent, jwtReal)
	wantSigned(t, strings.TrimPrefix(fields[3], "session="), sent, jwtReal)
	wantSigned(t, strings.TrimSuffix(strings.TrimPrefix(path, "/a?token="), "&x=y"), sent, jwtReal)
	_, _, path, _, reason = judged(t, s, "api.jwt.com", "/a?token="+strings.ReplaceAll(sent, ".", "%2E"), "")
	if reason != "" {
		t.Fatal(reason)
	}
	wantSigned(t, strings.TrimPrefix(path, "/a?token="), sent, jwtReal)
	for alg, keys := range map[string][2]string{"RS256": {k.rsaFake, k.rsaReal}, "PS384": {k.rsaFake, k.rsaReal}, "ES256": {k.ecFake, k.ecReal}} {
		sent := signed(t, keys[0], alg)
		_, fields, _, _, reason := judged(t, s, "api.rsa.com", "/", "", "Authorization: Bearer "+sent)
		if reason != "" {
			t.Fatal(alg, reason)
		}
		wantSigned(t, strings.TrimPrefix(fields[2], "Bearer "), sent, keys[1])
	}
}

func TestTokensAreRefused(t *testing.T) {
	strict, _ := tokenSwapper(t, false)
	lax, _ := tokenSwapper(t, true)
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	claims := "." + part(`{"sub":"me"}`) + "."
	for name, token := range map[string]string{
		"alg none":             part(`{"alg":"none"}`) + claims,
		"alg none, signed":     part(`{"alg":"none"}`) + claims + "AAAA",
		"another key":          signed(t, "another-key-another-key", "HS256"),
		"the real key":         signed(t, jwtReal, "HS256"),
		"an altered signature": signed(t, jwtFake, "HS256") + "A",
	} {
		_, _, _, _, reason := judged(t, strict, "api.jwt.com", "/", "", "Authorization: Bearer "+token)
		if reason != ReasonSignature {
			t.Errorf("%s: got %q; want %q", name, reason, ReasonSignature)
		}
		if plan, _, _, _, reason := judged(t, lax, "api.jwt.com", "/", "", "Authorization: Bearer "+token); plan != nil || reason != "" {
			t.Errorf("%s: got %q; want that allow_own lets it pass unchanged", name, reason)
		}
	}
	good := signed(t, jwtFake, "HS256")
	for name, line := range map[string]string{"a field that no use names": "X-Api-Key: " + good, "another scheme": "Authorization: Token " + good} {
		if _, _, _, _, reason := judged(t, strict, "api.jwt.com", "/", "", line); reason != ReasonPlace {
			t.Errorf("%s: got %q; want %q", name, reason, ReasonPlace)
		}
	}
	plain := target("api.jwt.com")
	plain.TLS, plain.Port = false, 443
	if _, r := strict.Judge(context.Background(), plain, fieldsOf("Authorization: Bearer "+good)); r == nil || r.Reason != ReasonPlaintext {
		t.Errorf("without TLS: %v", r)
	}
}

func TestServiceAccounts(t *testing.T) {
	s, k := tokenSwapper(t, false)
	const form = "Content-Type: application/x-www-form-urlencoded"
	sent := signed(t, k.gcpFake, "RS256")
	plan, _, _, body, reason := judged(t, s, "oauth2.googleapis.com", "/token", "assertion="+sent+"&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer", form)
	if reason != "" || plan.Capture() == nil {
		t.Fatalf("%q, %+v; want an answer that is captured", reason, plan)
	}
	wantSigned(t, strings.TrimPrefix(strings.Split(body, "&")[0], "assertion="), sent, k.gcpReal)
	plan, fields, _, _, reason := judged(t, s, "storage.googleapis.com", "/b", "", "Authorization: Bearer "+sent)
	if reason != "" || plan.Capture() != nil {
		t.Fatalf("%q; want that an API's answers are not read whole", reason)
	}
	wantSigned(t, strings.TrimPrefix(fields[2], "Bearer "), sent, k.gcpReal)
	for name, body := range map[string]string{
		"another key's":       "grant_type=jwt-bearer&assertion=" + signed(t, privateKey(t, "rsa"), "RS256"),
		"no token at all":     "grant_type=jwt-bearer&assertion=xyz",
		"a refresh token":     "grant_type=refresh_token&refresh_token=1//attacker",
		"nothing but a grant": "grant_type=client_credentials",
	} {
		if _, _, _, _, reason := judged(t, s, "oauth2.googleapis.com", "/token", body, form); reason == "" {
			t.Errorf("an assertion that is %s was sent", name)
		}
	}
	if plan, _, _, _, reason := judged(t, s, "sheets.googleapis.com", "/v4", "assertion=xyz", form); plan != nil || reason != "" {
		t.Errorf("a form of another kind: %q", reason)
	}
}
