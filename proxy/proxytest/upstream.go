// Package proxytest has what tests of the proxy connect to: an upstream with
// certificates of its own authority, pairs of connections, and a recorder that can
// be read.
package proxytest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy/ca"
)

// Seen is one request as an Upstream received it; /echo answers with it in JSON.
type Seen struct {
	Proto  string      `json:"proto"`
	Method string      `json:"method"`
	Host   string      `json:"host"`
	Path   string      `json:"path"`
	Header http.Header `json:"header"`
	Body   string      `json:"body"` // at most 1 MiB of it
}

// Upstream is a TLS server on 127.0.0.1 that speaks HTTP/1.1 and HTTP/2. It is
// safe for concurrent use.
//
//	/echo          the request as JSON
//	/events?n=N    N server-sent events "data: I"; each after Upstream.Tick received or was closed
//	/bytes?n=N     N bytes
//	/status?code=C an empty answer with that status
type Upstream struct {
	Addr  netip.AddrPort
	Roots *x509.CertPool // trusts the certificates
	PEM   []byte         // the authority's, as --upstream-ca takes it
	Tick  chan struct{}

	mu   sync.Mutex
	seen []Seen
}

// NewUpstream starts an Upstream whose certificate is good for any name that a
// client asks for. It ends with the test.
func NewUpstream(t testing.TB) *Upstream {
	t.Helper()
	authority, err := ca.New()
	if err != nil {
		t.Fatal(err)
	}
	u := &Upstream{Roots: x509.NewCertPool(), PEM: authority.PEM(), Tick: make(chan struct{})}
	u.Roots.AppendCertsFromPEM(u.PEM)
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", u.echo)
	mux.HandleFunc("/events", u.events)
	mux.HandleFunc("/bytes", u.bytes)
	mux.HandleFunc("/status", u.status)
	srv := httptest.NewUnstartedServer(mux)
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

// Seen returns the requests so far.
func (u *Upstream) Seen() []Seen {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]Seen(nil), u.seen...)
}

func (u *Upstream) note(r *http.Request) Seen {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20)) // a cut body is what was seen
	s := Seen{Proto: r.Proto, Method: r.Method, Host: r.Host, Path: r.URL.RequestURI(), Header: r.Header, Body: string(body)}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.seen = append(u.seen, s)
	return s
}

func (u *Upstream) echo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(u.note(r)) // the client is gone, which its test sees
}

func (u *Upstream) events(w http.ResponseWriter, r *http.Request) {
	u.note(r)
	w.Header().Set("Content-Type", "text/event-stream")
	for i := range number(r, "n") {
		select {
		case <-u.Tick:
		case <-r.Context().Done():
			return
		}
		fmt.Fprintf(w, "data: %d\n\n", i)
		w.(http.Flusher).Flush()
	}
}

func (u *Upstream) bytes(w http.ResponseWriter, r *http.Request) {
	u.note(r)
	n := number(r, "n")
	w.Header().Set("Content-Length", strconv.Itoa(n))
	chunk := make([]byte, 64<<10)
	for ; n > 0; n -= len(chunk) {
		if _, err := w.Write(chunk[:min(n, len(chunk))]); err != nil {
			return
		}
	}
}

func (u *Upstream) status(w http.ResponseWriter, r *http.Request) {
	u.note(r)
	w.WriteHeader(number(r, "code"))
}

func number(r *http.Request, key string) int {
	n, err := strconv.Atoi(r.URL.Query().Get(key))
	if err != nil {
		return 0
	}
	return n
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
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
}
