// Package proxytest has what tests of the proxy connect to: an upstream with
// certificates of its own authority, pairs of connections, and a recorder that can
// be read.
package proxytest

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy/ca"
)

// Upstream is a TLS server on 127.0.0.1 that speaks HTTP/1.1 and HTTP/2 and has nothing to say. It is safe for
// concurrent use.
type Upstream struct {
	Addr  netip.AddrPort
	Roots *x509.CertPool // trusts the certificates
}

// NewUpstream starts an Upstream whose certificate is good for any name that a
// client asks for. It ends with the test.
func NewUpstream(t testing.TB) *Upstream {
	t.Helper()
	authority, err := ca.New()
	if err != nil {
		t.Fatal(err)
	}
	u := &Upstream{Roots: x509.NewCertPool()}
	u.Roots.AppendCertsFromPEM(authority.PEM())
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.EnableHTTP2 = true
	srv.TLS = &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return authority.Leaf(h.ServerName) }}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	u.Addr = netip.MustParseAddrPort(srv.Listener.Addr().String())
	return u
}

// Override returns the --resolve text that sends host:port to the Upstream.
func (u *Upstream) Override(host string, port uint16) string {
	return fmt.Sprintf("%s:%d:%s", host, port, u.Addr)
}

// Pair returns the two ends of a TCP connection over loopback. Both are closed
// when the test ends.
func Pair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	l := Listen(t)
	dialled := make(chan *net.TCPConn, 1)
	go func() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			close(dialled)
			return
		}
		dialled <- c.(*net.TCPConn)
	}()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	client, ok := <-dialled
	if !ok {
		t.Fatal("dial the test's own listener")
	}
	server = s.(*net.TCPConn)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// Listen returns a TCP listener on 127.0.0.1 without MPTCP, as a sandbox's are. It
// is closed when the test ends.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	var cfg net.ListenConfig
	cfg.SetMultipathTCP(false)
	l, err := cfg.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// Deadline bounds a test's use of c, so that a hang is a failure.
func Deadline(t testing.TB, c net.Conn) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
}
