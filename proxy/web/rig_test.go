package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/secretd/api"
)

// What the tests of HTTP/1 and HTTP/2 share: the one secret, and the way upstream.

const (
	testHost        = "api.example.com"
	testPlaceholder = "sk-test-Zq81Lw0pRUN00001abcdefghijklmnopqrstuvwxyz0123"
	testKey         = "sk-test-REALREALREALREALREALREALREALREALREALREALREAL01"
)

// testKeys resolves the one placeholder of these tests.
type testKeys struct {
	mu      sync.Mutex
	revoked bool
	during  func() // before each answer
}

func (k *testKeys) Resolve(_ context.Context, r api.ResolveRequest) (api.Secret, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.during != nil {
		k.during()
	}
	switch {
	case k.revoked:
		return nil, api.ErrRevoked
	case r.Placeholder != testPlaceholder || r.Host != testHost:
		return nil, api.ErrUnknown
	}
	key := []byte(testKey)
	return func() []byte { return key }, nil
}

// testDialer dials one upstream whatever the name, and verifies the name.
type testDialer struct {
	addr   string
	config *tls.Config
	err    error

	mu    sync.Mutex
	dials int
}

func (d *testDialer) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials
}

func (d *testDialer) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *testDialer) Dial(ctx context.Context, _ api.Host, _ netip.Addr, _ uint16) (net.Conn, error) {
	var nd net.Dialer
	return nd.DialContext(ctx, "tcp", d.addr)
}

func (d *testDialer) DialTLS(ctx context.Context, h api.Host, _ uint16, alpn []string) (*tls.Conn, error) {
	d.mu.Lock()
	d.dials++
	failure := d.err
	d.mu.Unlock()
	if failure != nil {
		return nil, failure
	}
	cfg := d.config.Clone()
	cfg.ServerName, cfg.NextProtos = string(h), alpn
	dialer := tls.Dialer{Config: cfg}
	c, err := dialer.DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return nil, err
	}
	return c.(*tls.Conn), nil
}

func (d *testDialer) DialTLSAddr(context.Context, netip.Addr, uint16, []string) (*tls.Conn, error) {
	return nil, errors.New("not dialled in these tests")
}

// testAuthority returns an authority and what trusts it.
func testAuthority(t testing.TB) (*ca.Authority, *x509.CertPool) {
	t.Helper()
	a, err := ca.New()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(a.DER())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return a, pool
}
