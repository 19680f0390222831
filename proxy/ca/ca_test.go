package ca

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

func newTest(t testing.TB) *Authority {
	t.Helper()
	a, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func roots(a *Authority) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.PEM())
	return pool
}

func TestAuthority(t *testing.T) {
	a := newTest(t)
	c, err := x509.ParseCertificate(a.DER())
	if err != nil {
		t.Fatal(err)
	}
	if !c.IsCA || !c.MaxPathLenZero || c.KeyUsage&x509.KeyUsageCertSign == 0 || len(c.SubjectKeyId) != 20 || !bytes.Equal(c.SubjectKeyId, c.AuthorityKeyId) {
		t.Errorf("authority: CA %v, path %v, usage %v, ids %x %x", c.IsCA, c.MaxPathLenZero, c.KeyUsage, c.SubjectKeyId, c.AuthorityKeyId)
	}
	if age := time.Since(c.NotBefore); age < 24*time.Hour {
		t.Errorf("it began only %v ago", age)
	}
	if other := newTest(t); bytes.Equal(other.cert.RawSubject, c.RawSubject) {
		t.Error("two runs have authorities of one name")
	}
}

func TestLeaf(t *testing.T) {
	a := newTest(t)
	for _, name := range []string{"api.x.com", "_x.a.com", "203.0.113.7", "2001:db8::1", strings.Repeat("a.", 120) + "com"} {
		t.Run("it signs for "+name, func(t *testing.T) {
			leaf, err := a.Leaf(name)
			if err != nil {
				t.Fatal(err)
			}
			c := leaf.Leaf
			if _, err := c.Verify(x509.VerifyOptions{DNSName: name, Roots: roots(a)}); err != nil {
				t.Error(err)
			}
			if _, err := c.Verify(x509.VerifyOptions{DNSName: name, Roots: roots(newTest(t))}); err == nil {
				t.Error("another run's authority vouches for it")
			}
			if c.IsCA || !bytes.Equal(c.AuthorityKeyId, a.cert.SubjectKeyId) || len(c.SubjectKeyId) != 20 || time.Since(c.NotBefore) < 24*time.Hour {
				t.Errorf("leaf: CA %v, ids %x %x, from %v", c.IsCA, c.AuthorityKeyId, c.SubjectKeyId, c.NotBefore)
			}
			if again, _ := a.Leaf(name); again != leaf {
				t.Error("it signs again for the same name")
			}
		})
	}
}

func TestLeafIsMadeAnewBeforeItEnds(t *testing.T) {
	now := time.Now()
	a, err := newAuthority(func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	first, _ := a.Leaf("a.com")
	now = now.Add(leafLife - renewBefore + time.Hour)
	second, err := a.Leaf("a.com")
	if err != nil || second == first || !second.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Errorf("the leaf is not made anew: %v", err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	a := newTest(t)
	kept, _ := a.Leaf("kept.com")
	for i := range maxLeaves + 50 {
		if _, err := a.Leaf(fmt.Sprintf("n%d.com", i)); err != nil {
			t.Fatal(err)
		}
		if again, _ := a.Leaf("kept.com"); again != kept {
			t.Fatal("the name that is used most is forgotten")
		}
	}
	if len(a.leaves) > maxLeaves {
		t.Errorf("%d leaves are kept", len(a.leaves))
	}
	if _, err := a.Config("kept.com", "agent-chosen/7"); err != nil || len(a.leaves["kept.com"].configs) != 0 {
		t.Errorf("a protocol of the agent's choice is kept: %v", err)
	}
}

func TestConfig(t *testing.T) {
	a := newTest(t)
	cache := tls.NewLRUClientSessionCache(4)
	for i := range 2 {
		state := handshake(t, a, &tls.Config{ServerName: "a.com", RootCAs: roots(a), NextProtos: []string{"http/1.1", "h2"}, ClientSessionCache: cache})
		if state.NegotiatedProtocol != "h2" || state.CurveID != tls.X25519 || state.Version != tls.VersionTLS13 || state.DidResume != (i == 1) {
			t.Errorf("handshake %d: %q, %v, resumed %v", i, state.NegotiatedProtocol, state.CurveID, state.DidResume)
		}
	}
	if state := handshake(t, a, &tls.Config{ServerName: "a.com", RootCAs: roots(a), MaxVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.CurveP256}}); state.CurveID != tls.CurveP256 {
		t.Errorf("an old client gets %v", state.CurveID)
	}
}

func handshake(t *testing.T, a *Authority, client *tls.Config) tls.ConnectionState {
	t.Helper()
	cfg, err := a.Config("a.com", "h2")
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := tls.Server(far, cfg).Write([]byte("x"))
		done <- err
	}()
	conn := tls.Client(near, client)
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	near.Close()
	far.Close()
	return conn.ConnectionState()
}

func TestConcurrentUse(t *testing.T) {
	a := newTest(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				if _, err := a.Config(fmt.Sprintf("n%d.com", (i+j)%5), "h2"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkSign(b *testing.B) {
	a := newTest(b)
	for b.Loop() {
		if _, err := a.sign("api.x.com"); err != nil {
			b.Fatal(err)
		}
	}
}
