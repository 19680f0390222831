package jwt

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"testing"
)

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// keyPEM returns a new key of its kind in PKCS #8.
func keyPEM(t testing.TB, kind string) []byte {
	t.Helper()
	var k crypto.Signer
	var err error
	switch kind {
	case "rsa":
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	case "p256":
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "p521":
		k, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ed":
		_, k, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// sent is a token that a key signed.
func sent(t testing.TB, k *Key, alg string) []byte {
	t.Helper()
	input := b64(`{"typ":"JWT","alg":"`+alg+`"}`) + "." + b64(`{"sub":"me"}`)
	sig, err := k.Sign(&Token{Algorithm: alg, Input: []byte(input)}, Raw)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(input + "." + string(sig))
}

func TestSignAnew(t *testing.T) {
	account := func(text []byte) []byte {
		b, _ := json.Marshal(map[string]string{"type": "service_account", "private_key": string(text)})
		return b
	}
	oneLine := func(text []byte) []byte { return bytes.ReplaceAll(text, []byte("\n"), []byte(`\n`)) }
	for _, tt := range []struct {
		alg        string
		fake, real []byte
	}{
		{"HS256", []byte("placeholder-placeholder"), []byte("the real secret")},
		{"HS384", []byte("placeholder-placeholder"), []byte("the real secret")},
		{"HS512", []byte("placeholder-placeholder"), []byte("the real secret")},
		{"RS256", keyPEM(t, "rsa"), keyPEM(t, "rsa")},
		{"RS512", account(keyPEM(t, "rsa")), account(keyPEM(t, "rsa"))},
		{"PS256", keyPEM(t, "rsa"), oneLine(keyPEM(t, "rsa"))},
		{"ES256", keyPEM(t, "p256"), keyPEM(t, "p256")},
		{"ES384", keyPEM(t, "p384"), keyPEM(t, "p384")},
		{"ES512", keyPEM(t, "p521"), keyPEM(t, "p521")},
		{"EdDSA", keyPEM(t, "ed"), keyPEM(t, "ed")},
	} {
		t.Run("it signs anew with "+tt.alg, func(t *testing.T) {
			fake, real := NewKey(tt.fake), NewKey(tt.real)
			tok, ok := Parse(sent(t, fake, tt.alg))
			if !ok {
				t.Fatal("not parsed")
			}
			form, ok := fake.Verify(&tok)
			if !ok {
				t.Fatal("the placeholder's own signature is not verified")
			}
			if _, ok := real.Verify(&tok); ok {
				t.Fatal("the real key verifies what it has not signed")
			}
			sig, err := real.Sign(&tok, form)
			if err != nil || len(sig) != len(tok.Signature) {
				t.Fatalf("%d bytes in place of %d, %v", len(sig), len(tok.Signature), err)
			}
			anew, ok := Parse(bytes.Join([][]byte{tok.Input, sig}, []byte(".")))
			if _, verified := real.Verify(&anew); !ok || !verified {
				t.Fatal("the new signature is not the real key's")
			}
		})
	}
}

func TestSecretInBase64(t *testing.T) {
	raw := []byte{0xff, 0xfe, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0}
	decoded, text := NewKey(raw), NewKey([]byte(base64.URLEncoding.EncodeToString(raw)))
	tok, _ := Parse(sent(t, decoded, "HS256"))
	form, ok := text.Verify(&tok)
	if !ok || form != Base64 {
		t.Fatalf("got form %d, %v; want that a client which decodes its secret is understood", form, ok)
	}
	sig, err := text.Sign(&tok, form)
	if err != nil || !bytes.Equal(sig, tok.Signature) {
		t.Fatalf("got %q, %v", sig, err)
	}
}

func TestRefuses(t *testing.T) {
	secret := NewKey([]byte("placeholder-placeholder"))
	claims := b64(`{"sub":"me"}`)
	for name, text := range map[string]string{
		"alg none":                b64(`{"alg":"none"}`) + "." + claims + ".AAAA",
		"no signature":            b64(`{"alg":"HS256"}`) + "." + claims + ".",
		"two parts":               b64(`{"alg":"HS256"}`) + "." + claims,
		"an unknown algorithm":    b64(`{"alg":"HS257"}`) + "." + claims + ".AAAA",
		"alg twice":               b64(`{"alg":"HS256","alg":"none"}`) + "." + claims + ".AAAA",
		"alg twice, in two cases": b64(`{"alg":"HS256","Alg":"none"}`) + "." + claims + ".AAAA",
		"alg twice, escaped":      b64(`{"alg":"HS256","\u0061lg":"none"}`) + "." + claims + ".AAAA",
		"an unencoded payload":    b64(`{"alg":"HS256","b64":false,"crit":["b64"]}`) + "." + claims + ".AAAA",
		"text behind the header":  b64(`{"alg":"HS256"}{}`) + "." + claims + ".AAAA",
		"a header that is a list": b64(`["alg"]`) + "." + claims + ".AAAA",
		"half a padding":          b64(`{"alg":"HS256"}`) + "." + claims + ".AA=",
		"bits behind the end":     b64(`{"alg":"HS256"}`) + "." + claims + ".AAB",
	} {
		if _, ok := Parse([]byte(text)); ok {
			t.Errorf("it takes %s", name)
		}
	}
	tok, ok := Parse([]byte(b64(`{"alg":"HS256"}`) + "." + claims + "." + b64("0123456789abcdef0123456789abcdef")))
	if _, verified := secret.Verify(&tok); !ok || verified {
		t.Errorf("parsed %v, verified %v; want a well-formed token with a wrong signature", ok, verified)
	}
	private := NewKey(keyPEM(t, "rsa"))
	if _, err := private.Sign(&Token{Algorithm: "HS256", Input: []byte("a.b")}, Raw); !errors.Is(err, ErrKey) {
		t.Errorf("got %v; want that the text of a private key is no secret of HS256", err)
	}
	if _, err := private.Sign(&Token{Algorithm: "ES256", Input: []byte("a.b")}, Raw); !errors.Is(err, ErrKey) {
		t.Errorf("got %v; want ErrKey", err)
	}
}

func FuzzParse(f *testing.F) {
	secret := NewKey([]byte("placeholder-placeholder"))
	f.Add(sent(f, secret, "HS256"))
	f.Add([]byte(b64(`{"alg":"none"}`) + ".e30."))
	f.Add([]byte("eyJ.."))
	f.Fuzz(func(t *testing.T, text []byte) {
		tok, ok := Parse(text)
		if !ok {
			return
		}
		if again := append(append(bytes.Clone(tok.Input), '.'), tok.Signature...); !bytes.Equal(again, text) {
			t.Fatalf("%q reads as %q", text, again)
		}
		if form, ok := secret.Verify(&tok); ok {
			if sig, err := secret.Sign(&tok, form); err != nil || !bytes.Equal(sig, tok.Signature) {
				t.Fatalf("verified, but signed anew as %q, %v", sig, err)
			}
		}
	})
}

// TestPadding: Google's older libraries pad the parts of a token, and Google takes them.
func TestPadding(t *testing.T) {
	pad := func(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) }
	k := NewKey([]byte("placeholder-placeholder"))
	input := pad(`{"alg":"HS256"}`) + "." + pad(`{"sub":"you"}`)
	sig := sum(method{'H', crypto.SHA256}, k.text, []byte(input))
	text := input + "." + base64.URLEncoding.EncodeToString(sig)
	tok, ok := Parse([]byte(text))
	if !ok {
		t.Fatal("not parsed")
	}
	form, verified := k.Verify(&tok)
	again, err := k.Sign(&tok, form)
	if !verified || err != nil || input+"."+string(again) != text {
		t.Errorf("verified %v, signed anew %q, %v; want %q", verified, again, err, text)
	}
}
