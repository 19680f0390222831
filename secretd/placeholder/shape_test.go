package placeholder

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
)

// keys are one private key of each kind and format.
func keys(t testing.TB) map[string]string {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, d, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	pkcs8 := func(k any) string {
		der, err := x509.MarshalPKCS8PrivateKey(k)
		return text("PRIVATE KEY", der, err)
	}
	sec1, err := x509.MarshalECPrivateKey(e)
	return map[string]string{
		"RSA in PKCS #8": pkcs8(r), "RSA in PKCS #1": text("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(r), nil),
		"EC in PKCS #8": pkcs8(e), "EC in SEC 1": text("EC PRIVATE KEY", sec1, err), "Ed25519": pkcs8(d),
	}
}

func TestMintKey(t *testing.T) {
	for name, value := range keys(t) {
		for _, line := range []bool{false, true} {
			if line {
				value = strings.ReplaceAll(value, "\n", `\n`)
			}
			got, err := Mint(NewMarker(), "APP_KEY", []byte(value))
			if err != nil || got == value || strings.Contains(got, "\n") == line {
				t.Fatalf("%s, on one line %v: %q, %v", name, line, got, err)
			}
			was, _ := pem.Decode([]byte(strings.ReplaceAll(value, `\n`, "\n")))
			is, _ := pem.Decode([]byte(strings.ReplaceAll(got, `\n`, "\n")))
			if is == nil || is.Type != was.Type {
				t.Fatalf("%s became %q", name, got)
			}
			if _, err := fakeDER(is.Bytes); err != nil {
				t.Errorf("%s: what was made is no key: %v", name, err)
			}
			if Marker(got) != "" {
				t.Errorf("%s: a key with a marker", name)
			}
		}
	}
	got, err := Mint(NewMarker(), "SSH_KEY", []byte("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"))
	if err != nil || !strings.HasPrefix(got, neutral) {
		t.Errorf("a key of an unknown kind became %q, %v", got, err)
	}
}

func TestMintServiceAccount(t *testing.T) {
	real := keys(t)["RSA in PKCS #8"]
	account := map[string]string{
		"type": "service_account", "project_id": "p", "private_key_id": "abc", "private_key": real,
		"client_email": "me@p.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token",
	}
	value, err := json.MarshalIndent(account, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Mint(NewMarker(), "GCP_SERVICE_ACCOUNT_KEY", value)
	if err != nil {
		t.Fatal(err)
	}
	var fake map[string]string
	if err := json.Unmarshal([]byte(got), &fake); err != nil {
		t.Fatal(err)
	}
	if fake["private_key"] == real || !strings.HasPrefix(fake["private_key"], "-----BEGIN PRIVATE KEY-----\n") {
		t.Errorf("private_key is %.60q", fake["private_key"])
	}
	account["private_key"], fake["private_key"] = "", ""
	for name := range account {
		if fake[name] != account[name] {
			t.Errorf("%s is %q; want %q", name, fake[name], account[name])
		}
	}
	if got, err := Mint(NewMarker(), "X", []byte(`{"type":"service_account","private_key":"no key of any kind"}`)); err != nil || strings.Contains(got, "{") {
		t.Errorf("an account without a key became %q, %v", got, err)
	}
}

func TestMintToken(t *testing.T) {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	value := part(`{"alg":"RS256"}`) + "." + part(`{"exp":1800000000,"account":"a"}`) + "." + strings.Repeat("Ab-_", 80)
	marker := NewMarker()
	got, err := Mint(marker, "CODEX_ACCESS_TOKEN", []byte(value))
	if err != nil || len(got) != len(value) {
		t.Fatalf("%q, %v", got, err)
	}
	if end := strings.LastIndexByte(value, '.') + 1; got[:end] != value[:end] || shares(got[end:], []byte(value)) {
		t.Errorf("%q; want the same claims and nothing of the signature", got)
	}
	if Marker(got) != marker {
		t.Errorf("Marker(%q) = %q; want %q", got, Marker(got), marker)
	}
}
