package dial

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy/proxytest"
)

// issued is a certificate with its key.
type issued struct {
	cert *x509.Certificate
	der  []byte
	key  crypto.Signer
}

// issue makes a certificate for api.x.com as change wants it, signed by parent, or by itself if that is nil.
func issue(t *testing.T, parent *issued, change func(*x509.Certificate)) *issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issueFor(t, key, parent, change)
}

func issueFor(t *testing.T, key crypto.Signer, parent *issued, change func(*x509.Certificate)) *issued {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "api.x.com"}, DNSNames: []string{"api.x.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	signer, above := crypto.Signer(key), template
	if parent != nil {
		signer, above = parent.key, parent.cert
	}
	der, err := x509.CreateCertificate(rand.Reader, template, above, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issued{cert, der, key}
}

func authority(c *x509.Certificate) {
	c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	c.Subject, c.DNSNames = pkix.Name{CommonName: "an authority"}, nil
}

// TestUpstreamCertificates is badssl.com's list: no upstream with one of these gets a byte of a request.
func TestUpstreamCertificates(t *testing.T) {
	root, other := issue(t, nil, authority), issue(t, nil, authority)
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	constrained := issue(t, root, func(c *x509.Certificate) {
		authority(c)
		c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"other.com"}
	})
	notCA := issue(t, root, nil)
	named := func(names ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.DNSNames = names }
	}
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf("n%d.x.com", i)
	}
	for _, c := range []struct {
		name  string
		chain []*issued
		most  uint16 // version of TLS; 0 is any
		good  bool
	}{
		{"a good one", []*issued{issue(t, root, nil)}, 0, true},
		{"a good one among a thousand names", []*issued{issue(t, root, named(append(many, "api.x.com")...))}, 0, true},
		{"a good one of RSA", []*issued{issueFor(t, weak, root, nil)}, 0, true},
		{"an expired one", []*issued{issue(t, root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })}, 0, false},
		{"one that is not valid yet", []*issued{issue(t, root, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })}, 0, false},
		{"one of another name", []*issued{issue(t, root, named("evil.com"))}, 0, false},
		{"one of a name below", []*issued{issue(t, root, named("a.api.x.com"))}, 0, false},
		{"one of a name above", []*issued{issue(t, root, named("x.com"))}, 0, false},
		{"one of a wildcard two labels up", []*issued{issue(t, root, named("*.com"))}, 0, false},
		{"one of a wildcard for all", []*issued{issue(t, root, named("*"))}, 0, false},
		{"one of a wildcard within a label", []*issued{issue(t, root, named("a*i.x.com"))}, 0, false},
		{"one of a thousand other names", []*issued{issue(t, root, named(many...))}, 0, false},
		{"one of no name but the common one", []*issued{issue(t, root, named())}, 0, false},
		{"one of an address", []*issued{issue(t, root, func(c *x509.Certificate) {
			c.DNSNames, c.IPAddresses = nil, []net.IP{net.IPv4(127, 0, 0, 1)}
		})}, 0, false},
		{"one of a name with NUL", []*issued{issue(t, root, named("api.x.com\x00.evil.com"))}, 0, false},
		{"one that signed itself", []*issued{issue(t, nil, nil)}, 0, false},
		{"one of an unknown authority", []*issued{issue(t, other, nil), other}, 0, false},
		{"one by a certificate that is no authority", []*issued{issue(t, notCA, nil), notCA}, 0, false},
		{"one without its intermediate", []*issued{issue(t, issue(t, root, authority), nil)}, 0, false},
		{"one of an authority for other names", []*issued{issue(t, constrained, nil), constrained}, 0, false},
		{"one for clients", []*issued{issue(t, root, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })}, 0, false},
		{"TLS 1.1", []*issued{issue(t, root, nil)}, tls.VersionTLS11, false},
		{"TLS 1.0", []*issued{issue(t, root, nil)}, tls.VersionTLS10, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := make(chan string, 1)
			l := proxytest.Listen(t)
			cfg := &tls.Config{MaxVersion: c.most, MinVersion: tls.VersionTLS10, Certificates: []tls.Certificate{{PrivateKey: c.chain[0].key}}}
			for _, link := range c.chain {
				cfg.Certificates[0].Certificate = append(cfg.Certificates[0].Certificate, link.der)
			}
			go serveOnce(l, cfg, got)
			roots := x509.NewCertPool()
			roots.AddCert(root.cert)
			d := newDialer(t, loopback, Config{Overrides: []string{"api.x.com:443:" + l.Addr().String()}, Roots: roots})
			conn, err := d.DialTLS(t.Context(), "api.x.com", 443, nil)
			if err == nil {
				io.WriteString(conn, "request")
				conn.Close()
			}
			if (err == nil) != c.good {
				t.Errorf("DialTLS: %v, want success %v", err, c.good)
			}
			if text := <-got; text != strings.Repeat("request", map[bool]int{true: 1}[c.good]) {
				t.Errorf("the upstream got %q", text)
			}
		})
	}
}

// serveOnce takes one connection and says what came over it.
func serveOnce(l net.Listener, cfg *tls.Config, got chan<- string) {
	raw, err := l.Accept()
	if err != nil {
		got <- ""
		return
	}
	defer raw.Close()
	text, _ := io.ReadAll(tls.Server(raw, cfg))
	got <- string(text)
}
