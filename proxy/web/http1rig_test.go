package web

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

const (
	h1Host        = "api.example.com"
	h1Placeholder = "sk-test-Zq81Lw0pRUN00001abcdefghijklmnopqrstuvwxyz0123"
	h1Key         = "sk-test-REALREALREALREALREALREALREALREALREALREALREAL01"
)

// h1rig is a Server between real TLS connections on the loopback.
type h1rig struct {
	t        testing.TB
	server   *Server
	front    net.Listener
	upstream net.Listener // TLS; accepted by the test or by serve
	roots    *x509.CertPool
	dialer   *h1dialer
	keys     *h1keys
	records  *h1records
	ended    chan error

	mu   sync.Mutex
	conn func(*proxy.Conn) // changes a connection before it is served
}

// onConn sets what changes a connection before it is served.
func (rig *h1rig) onConn(f func(*proxy.Conn)) {
	rig.mu.Lock()
	defer rig.mu.Unlock()
	rig.conn = f
}

type h1records struct {
	mu     sync.Mutex
	events []audit.Event
	fail   bool
}

func (r *h1records) Record(e audit.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail && e.Kind == audit.Credential {
		return errors.New("disk full")
	}
	r.events = append(r.events, e)
	return nil
}

func (r *h1records) failUses() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = true
}

func (r *h1records) all() []audit.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]audit.Event(nil), r.events...)
}

type h1keys struct {
	mu      sync.Mutex
	revoked bool
}

func (k *h1keys) Resolve(_ context.Context, r api.ResolveRequest) (api.Secret, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.revoked:
		return nil, api.ErrRevoked
	case r.Placeholder != h1Placeholder || r.Host != h1Host:
		return nil, api.ErrUnknown
	}
	key := []byte(h1Key)
	return func() []byte { return key }, nil
}

type h1dialer struct {
	addr   string
	config *tls.Config
	err    error

	mu    sync.Mutex
	dials int
}

func (d *h1dialer) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials
}

func (d *h1dialer) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *h1dialer) Dial(ctx context.Context, _ api.Host, _ netip.Addr, _ uint16) (net.Conn, error) {
	var nd net.Dialer
	return nd.DialContext(ctx, "tcp", d.addr)
}

func (d *h1dialer) DialTLS(ctx context.Context, h api.Host, _ uint16, alpn []string) (*tls.Conn, error) {
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

func (d *h1dialer) DialTLSAddr(context.Context, netip.Addr, uint16, []string) (*tls.Conn, error) {
	return nil, errors.New("not dialled in these tests")
}

func h1authority(t testing.TB) (*ca.Authority, *x509.CertPool) {
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

// newH1Rig starts a proxy in front of a TLS listener that nobody accepts from
// yet.
func newH1Rig(t testing.TB) *h1rig {
	t.Helper()
	current := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, current, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait")) }) // the test's upstream naps
	agentCA, roots := h1authority(t)
	upCA, upRoots := h1authority(t)
	leaf, err := upCA.Leaf(h1Host)
	if err != nil {
		t.Fatal(err)
	}
	rig := &h1rig{t: t, roots: roots, records: &h1records{}, keys: &h1keys{}, ended: make(chan error, 256)}
	rig.upstream = listen(t)
	rig.upstream = tls.NewListener(rig.upstream, &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"http/1.1"}})
	rig.front = listen(t)
	rig.dialer = &h1dialer{addr: rig.upstream.Addr().String(), config: &tls.Config{RootCAs: upRoots}}
	entry := api.Entry{Name: "TEST_API_KEY", Placeholder: h1Placeholder, Binding: api.Binding{Hosts: []api.Pattern{{Host: h1Host}}}}
	rig.server = New(Config{CA: agentCA, Dial: rig.dialer, Swap: swap.New([]api.Entry{entry}, rig.keys), Audit: rig.records})
	rig.run()
	return rig
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (rig *h1rig) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for id := uint64(1); ; id++ {
			raw, err := rig.front.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { rig.serveConn(ctx, raw, id) })
		}
	})
	rig.t.Cleanup(func() {
		rig.front.Close()
		rig.upstream.Close()
		cancel()
		wg.Wait()
		rig.server.Close()
	})
}

func (rig *h1rig) serveConn(ctx context.Context, raw net.Conn, id uint64) {
	conn := &proxy.Conn{Conn: raw, Host: h1Host, Port: 443, ID: id,
		Hello: &proxy.Hello{ServerName: h1Host, ALPN: []string{"http/1.1"}}}
	rig.mu.Lock()
	change := rig.conn
	rig.mu.Unlock()
	if change != nil {
		change(conn)
	}
	protocol := proxy.Protocol(rig.server)
	if conn.Verdict != (egress.Decision{}) {
		protocol = rig.server.Refuse()
	}
	err := protocol.ServeConn(ctx, conn)
	select {
	case rig.ended <- err:
	default:
	}
}

// handle serves the upstream with net/http.
func (rig *h1rig) handle(h http.HandlerFunc) {
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(rig.upstream)
	}()
	rig.t.Cleanup(func() {
		srv.Close()
		<-done
	})
}

// script serves each upstream connection with f, and closes it after.
func (rig *h1rig) script(f func(c net.Conn, r *bufio.Reader)) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := rig.upstream.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				f(c, bufio.NewReader(c))
			})
		}
	})
	rig.t.Cleanup(func() {
		rig.upstream.Close()
		rig.server.Close() // parked connections, which f would wait for
		wg.Wait()
	})
}

func (rig *h1rig) clientConfig() *tls.Config {
	return &tls.Config{RootCAs: rig.roots, ServerName: h1Host, NextProtos: []string{"http/1.1"}}
}

// dial connects as the agent does.
func (rig *h1rig) dial() *tls.Conn {
	rig.t.Helper()
	c, err := tls.Dial("tcp", rig.front.Addr().String(), rig.clientConfig())
	if err != nil {
		rig.t.Fatal(err)
	}
	rig.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// client is a net/http client of the agent.
func (rig *h1rig) client() *http.Client {
	tr := &http.Transport{
		TLSClientConfig: rig.clientConfig(), DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", rig.front.Addr().String())
		},
	}
	rig.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// exchange sends raw and returns the answer's status, header and body, or an
// error.
func (rig *h1rig) exchange(raw string) (*http.Response, string, error) {
	c := rig.dial()
	defer c.Close()
	if _, err := io.WriteString(c, raw); err != nil {
		return nil, "", err
	}
	method, _, _ := strings.Cut(raw, " ")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// readHead reads a head as it came.
func readHead(r *bufio.Reader) (string, error) {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil || line == "\r\n" {
			return b.String(), err
		}
	}
}

// counts wraps what came at the upstream.
type counts struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (c *counts) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data.Write(p)
}

func (c *counts) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data.String()
}

// ask finishes a handshake with any name over c and sends one request.
func (rig *h1rig) ask(c net.Conn, sni string) (*http.Response, error) {
	conn := tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: sni})
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+h1Host+"\r\n\r\n"); err != nil {
		return nil, err
	}
	return http.ReadResponse(bufio.NewReader(conn), nil)
}
