package swap

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/placeholder"
)

const (
	clientFake  = "ssv_7aRkEr99clientclientclientclientclient"
	clientReal  = "real+client/secret:of=100%"
	refreshFake = "ssv_7aRkEr99refreshrefreshrefreshrefresh"
	refreshReal = "the-stored-refresh-token-REAL"
	formType    = "Content-Type: application/x-www-form-urlencoded"
	jsonType    = "Content-Type: application/json"
)

// keeper is a Resolver that stores logins.
type keeper struct {
	values
	renewed []api.Renewal
	err     error
}

func (k *keeper) Renew(_ context.Context, r api.Renewal) error {
	if k.err == nil {
		k.renewed = append(k.renewed, r)
		if len(r.Refresh) > 0 {
			k.of[r.Placeholder] = string(r.Refresh)
		}
	}
	return k.err
}

func oauthSwapper(t testing.TB, allowOwn bool) (*Swapper, *keeper) {
	k := &keeper{values: values{of: map[string]string{clientFake: clientReal, refreshFake: refreshReal}, errs: map[string]error{}}}
	b := api.Binding{Hosts: patterns(t, "auth.x.com"), Uses: uses(t, "oauth:*.api.x.com"), AllowOwn: allowOwn}
	return New([]api.Entry{{Name: "CLIENT_SECRET", Placeholder: clientFake, Binding: b}, {Name: "X_REFRESH_TOKEN", Placeholder: refreshFake, Binding: b}}, k), k
}

// TestTokensOfASecretForTwoUses logs in by the use that is not for tokens.
func TestTokensOfASecretForTwoUses(t *testing.T) {
	b := api.Binding{Hosts: patterns(t, "auth.x.com"), Uses: uses(t, "basic", "form:client_secret", "oauth")}
	k := &keeper{values: values{of: map[string]string{clientFake: clientReal}, errs: map[string]error{}}}
	s := New([]api.Entry{{Name: "CLIENT_SECRET", Placeholder: clientFake, Binding: b}}, k)
	for body, lines := range map[string][]string{
		"grant_type=client_credentials":                               {formType, "Authorization: " + basic("app:"+clientFake)},
		"grant_type=client_credentials&client_secret=" + clientFake:   {formType},
		"grant_type=client_credentials&client_secret=\r" + clientFake: {"Content-Type: text/plain", "Authorization: " + basic("app:"+clientFake)},
	} {
		if plan, _, _, _, reason := judged(t, s, "auth.x.com", "/token", body, lines...); reason != "" || plan.Capture() == nil {
			t.Errorf("%q: %q, and the answer's tokens are not looked for", lines, reason)
		}
	}
}

func TestRequestsForTokens(t *testing.T) {
	s, _ := oauthSwapper(t, false)
	escaped := strings.ReplaceAll(clientFake, "_", "%5F")
	for name, tt := range map[string]struct{ line, body, wantBody, wantField string }{
		"a form": {formType, "grant_type=authorization_code&code=c&client_secret=" + clientFake,
			"grant_type=authorization_code&code=c&client_secret=real%2Bclient%2Fsecret%3Aof%3D100%25", ""},
		"JSON": {jsonType, `{"grant_type":"refresh_token","refresh_token":"` + refreshFake + `"}`,
			`{"grant_type":"refresh_token","refresh_token":"` + refreshReal + `"}`, ""},
		"a public client's secret": {formType, "grant_type=refresh_token&client_secret=public&refresh_token=" + refreshFake,
			"grant_type=refresh_token&client_secret=public&refresh_token=" + refreshReal, ""},
		"Basic": {"Authorization: " + basic("app:"+clientFake), "grant_type=client_credentials", "grant_type=client_credentials",
			basic("app:real%2Bclient%2Fsecret%3Aof%3D100%25")},
		"Basic, escaped": {"Authorization: " + basic("app:"+escaped), "grant_type=client_credentials", "grant_type=client_credentials",
			basic("app:real%2Bclient%2Fsecret%3Aof%3D100%25")},
		"a revocation": {formType, "token=" + refreshFake, "token=" + refreshReal, ""},
	} {
		lines := []string{tt.line}
		if tt.wantField != "" {
			lines = append(lines, formType)
		}
		plan, fields, _, body, reason := judged(t, s, "auth.x.com", "/token", tt.body, lines...)
		if reason != "" || body != tt.wantBody || plan.Capture() == nil || tt.wantField != "" && fields[2] != tt.wantField {
			t.Errorf("%s: %q, body %q, fields %q; want %q, %q and a capture", name, reason, body, fields, tt.wantBody, tt.wantField)
		}
	}
	for name, tt := range map[string]struct{ line, body, host, reason string }{
		"a grant of no secret":       {formType, "grant_type=authorization_code&code=c", "auth.x.com", ReasonForeign},
		"another's refresh token":    {formType, "grant_type=refresh_token&refresh_token=theirs&client_secret=" + clientFake, "auth.x.com", ReasonForeign},
		"a secret for an API":        {"Authorization: Bearer " + clientFake, "", "v1.api.x.com", ReasonMismatch},
		"an API with a key of own":   {"Authorization: Bearer theirs", "", "v1.api.x.com", ReasonForeign},
		"a secret as a bearer":       {"Authorization: Bearer " + clientFake, "", "auth.x.com", ReasonPlace},
		"a refresh token that is no": {formType, "grant_type=refresh_token&refresh_token=" + strings.Replace(refreshFake, "fresh", "frush", 1), "auth.x.com", ReasonUnknown},
	} {
		if _, _, _, _, reason := judged(t, s, tt.host, "/token", tt.body, tt.line); reason != tt.reason {
			t.Errorf("%s: got %q; want %q", name, reason, tt.reason)
		}
	}
	if plan, _, _, body, reason := judged(t, s, "auth.x.com", "/devices", `{"token":"of a device"}`, jsonType); plan != nil || reason != "" || !strings.Contains(body, "of a device") {
		t.Errorf("a request that is none for tokens: %q", reason)
	}
	lax, _ := oauthSwapper(t, true)
	if plan, _, _, _, reason := judged(t, lax, "auth.x.com", "/token", "grant_type=authorization_code&code=c", formType); reason != "" || plan.Capture() == nil || len(plan.Secrets) != 0 {
		t.Errorf("with allow_own: %q, %+v; want it sent as it is and its answer captured", reason, plan)
	}
}

// capture asks for tokens and returns what the agent gets of an answer.
func capture(t testing.TB, s *Swapper, ask, contentType, answer string) (map[string]any, *Refusal) {
	t.Helper()
	plan, _, _, _, reason := judged(t, s, "auth.x.com", "/token", ask, formType)
	if reason != "" {
		t.Fatal(reason)
	}
	body, covered, refused := plan.Capture().Take(context.Background(), Answer{Status: 200, Type: contentType, Body: []byte(answer)})
	if refused != nil {
		return nil, refused
	}
	got := map[string]any{}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	if strings.Contains(string(body), "REAL") {
		t.Errorf("%s holds a token", body)
	}
	for _, u := range covered.Secrets {
		if !u.Passing || !strings.Contains(answer, string(u.Secret())) {
			t.Errorf("%+v; want that answers are searched for the tokens", u)
		}
	}
	return got, nil
}

func TestTokensOfAnswers(t *testing.T) {
	s, k := oauthSwapper(t, false)
	got, _ := capture(t, s, "grant_type=client_credentials&client_secret="+clientFake, "application/json",
		`{"access_token":"access-token-REAL","refresh_token":"minted-refresh-REAL","expires_in":60}`)
	access, refresh := got["access_token"].(string), got["refresh_token"].(string)
	if placeholder.Marker(access) != "7aRkEr99" || got["expires_in"] != 60.0 {
		t.Errorf("%v; want placeholders of the run, and the expiry", got)
	}
	_, fields, _, _, reason := judged(t, s, "v1.api.x.com", "/", "", "Authorization: Bearer "+access)
	if reason != "" || fields[2] != "Bearer access-token-REAL" {
		t.Errorf("%q, %q", reason, fields)
	}
	for host, want := range map[string]string{"evil.com": ReasonMismatch, "api.x.com.evil.com": ReasonMismatch} {
		if _, _, _, _, reason := judged(t, s, host, "/", "", "Authorization: Bearer "+access); reason != want {
			t.Errorf("%s: got %q; want %q", host, reason, want)
		}
	}
	if _, _, _, _, reason := judged(t, s, "v1.api.x.com", "/", "", "Authorization: Bearer "+refresh); reason == "" {
		t.Error("a refresh token went to an API")
	}
	if _, _, _, body, reason := judged(t, s, "auth.x.com", "/token", "grant_type=refresh_token&refresh_token="+refresh, formType); reason != "" || !strings.Contains(body, "minted-refresh-REAL") {
		t.Errorf("refresh: %q, %q", reason, body)
	}
	again, _ := capture(t, s, "grant_type=refresh_token&refresh_token="+refresh, "application/json", `{"access_token":"access-token-REAL","refresh_token":"minted-refresh-REAL"}`)
	if again["access_token"] != access || again["refresh_token"] != refresh {
		t.Errorf("the same tokens became others: %v", again)
	}
	if len(k.renewed) != 0 {
		t.Error("tokens that nobody stores were stored")
	}
	k.errs[clientFake] = api.ErrRevoked
	if _, _, _, _, reason := judged(t, s, "v1.api.x.com", "/", "", "Authorization: Bearer "+access); reason != ReasonRevoked {
		t.Errorf("after the client's secret was revoked: %q; want %q", reason, ReasonRevoked)
	}
	for i := range maxMinted + 1 {
		capture(t, s, "grant_type=refresh_token&refresh_token="+refreshFake, "", fmt.Sprintf(`{"access_token":"access-token-REAL-%d"}`, i))
	}
	k.errs = map[string]error{}
	if _, _, _, _, reason := judged(t, s, "v1.api.x.com", "/", "", "Authorization: Bearer "+access); reason != ReasonUnknown {
		t.Errorf("after %d others: %q; want %q", maxMinted, reason, ReasonUnknown)
	}
}

func TestStoredLogins(t *testing.T) {
	s, k := oauthSwapper(t, false)
	ask := "grant_type=refresh_token&client_secret=" + clientFake + "&refresh_token=" + refreshFake
	got, _ := capture(t, s, ask, "", `{"access_token":"access-token-REAL","refresh_token":"next-refresh-REAL","id_token":"id-token-REAL","expires_in":3600}`)
	if got["refresh_token"] != refreshFake || len(k.renewed) != 1 {
		t.Fatalf("%v, %d; want the same placeholder, and the new token stored", got, len(k.renewed))
	}
	if r := k.renewed[0]; string(r.Refresh) != "next-refresh-REAL" || string(r.Access) != "access-token-REAL" || string(r.ID) != "id-token-REAL" || r.Expires.IsZero() {
		t.Errorf("stored %+v", r)
	}
	k.err = api.ErrDenied
	if got, refused := capture(t, s, ask, "", `{"access_token":"access-2-REAL","refresh_token":"unstored-refresh-REAL"}`); refused != nil || got["refresh_token"] != refreshFake {
		t.Errorf("a login for this run alone: %v, %v", got, refused)
	}
	if _, _, _, body, _ := judged(t, s, "auth.x.com", "/token", ask, formType); !strings.Contains(body, "unstored-refresh-REAL") {
		t.Errorf("the run goes on with %q; want the newest token", body)
	}
	k.err = errors.New("disk full")
	if _, refused := capture(t, s, ask, "", `{"refresh_token":"third-refresh-REAL"}`); refused == nil || refused.Status != 503 || bytes.Contains(refused.Body(), []byte("REAL")) {
		t.Errorf("got %+v; want 503", refused)
	}
}

// TestIDTokens: clients compare the hash of the access token that they got with what the ID token says.
func TestIDTokens(t *testing.T) {
	s, _ := oauthSwapper(t, false)
	part := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	id := part(`{"alg":"RS256"}`) + "." + part(`{"sub":"me","at_hash":"77QmUPtjPfzWtF2AnpK9RQ"}`) + "." + part(strings.Repeat("signature", 20))
	got, _ := capture(t, s, "grant_type=client_credentials&client_secret="+clientFake, "", `{"access_token":"access-token-REAL","id_token":"`+id+`"}`)
	parts := strings.Split(got["id_token"].(string), ".")
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || len(parts) != 3 || !strings.Contains(string(claims), `"sub":"me"`) || strings.Contains(string(claims), "77Qm") {
		t.Errorf("%q, %v", claims, err)
	}
	if strings.Contains(id, parts[2][:12]) {
		t.Error("the signature stayed")
	}
}

func FuzzTake(f *testing.F) {
	for _, body := range []string{`{"access_token":"access-token-REAL"}`, "access_token=a&refresh_token=b", `{"id_token":"eyJhbGciOiJSUzI1NiJ9.e30.AAAA"}`, "<p>"} {
		f.Add(200, "application/json", []byte(body))
	}
	s, _ := oauthSwapper(f, false)
	plan, _, _, _, _ := judged(f, s, "auth.x.com", "/token", "grant_type=refresh_token&refresh_token="+refreshFake, formType)
	f.Fuzz(func(t *testing.T, status int, kind string, body []byte) {
		s.purse = &purse{}
		out, covered, refused := plan.Capture().Take(context.Background(), Answer{Status: status, Type: kind, Body: body})
		if refused != nil {
			return
		}
		for _, u := range covered.Secrets {
			if len(u.Secret()) > 64 && bytes.Contains(out, u.Secret()) {
				t.Fatalf("%q keeps a token of %q", out, body)
			}
		}
	})
}
