package bundle

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority makes a self-signed certificate, in DER.
func authority(t *testing.T, n int64) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: fmt.Sprintf("authority %d", n)},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestKeyStore(t *testing.T) {
	keytool, err := exec.LookPath("keytool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs keytool (a JDK)")
		}
		t.Skip("needs keytool (a JDK)")
	}
	file := filepath.Join(t.TempDir(), "cacerts")
	store := keyStore([][]byte{authority(t, 1), authority(t, 2)}, time.Now())
	if err := os.WriteFile(file, store, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(keytool, "-list", "-v", "-keystore", file, "-storepass", storePassword).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"2 entries", "trustedCertEntry", "CN=authority 1", "CN=authority 2"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("keytool does not say %q:\n%s", want, out)
		}
	}
}

func TestCertificates(t *testing.T) {
	one, two := authority(t, 1), authority(t, 2)
	text := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }
	all := append(append([]byte("# a comment\n"), text(one)...), text(two)...)
	all = append(all, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})...)
	all = append(all, text(one)...)
	got := certificates(all)
	if len(got) != 2 || string(got[0]) != string(one) || string(got[1]) != string(two) {
		t.Errorf("got %d certificates, want the two, each once", len(got))
	}
}
