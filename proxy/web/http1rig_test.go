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
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

// h1rig is a Server between real TLS connections on the loopback.
type h1rig struct {
	t        testing.TB
	server   *Server
	front    net.Listener
	upstream net.Listener // TLS; accepted by the test or by serve
	roots    *x509.CertPool
	dialer   *testDialer
	keys     *testKeys
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

// newH1Rig starts a proxy in front of a TLS listener that nobody accepts from
// yet.
func newH1Rig(t testing.TB) *h1rig {
	t.Helper()
	current := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, current, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait")) }) // the test's upstream naps
	agentCA, roots := testAuthority(t)
	upCA, upRoots := testAuthority(t)
	leaf, err := upCA.Leaf(testHost)
	if err != nil {
		t.Fatal(err)
	}
	rig := &h1rig{t: t, roots: roots, records: &h1records{}, keys: &testKeys{}, ended: make(chan error, 256)}
	rig.upstream = listen(t)
	rig.upstream = tls.NewListener(rig.upstream, &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"http/1.1"}})
	rig.front = listen(t)
	rig.dialer = &testDialer{addr: rig.upstream.Addr().String(), config: &tls.Config{RootCAs: upRoots}}
	entry := api.Entry{Name: "TEST_API_KEY", Placeholder: testPlaceholder, Binding: api.Binding{Hosts: []api.Pattern{{Host: testHost}}}}
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
	conn := &proxy.Conn{Conn: raw, Host: testHost, Port: 443, ID: id,
		Hello: &proxy.Hello{ServerName: testHost, ALPN: []string{"http/1.1"}}}
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
	return &tls.Config{RootCAs: rig.roots, ServerName: testHost, NextProtos: []string{"http/1.1"}}
}

// dial connects as the agent does.
func (rig *h1rig) dial() *tls.Conn {
	rig.t.Helper()
	c, err := tls.Dial("tcp", rig.front.Addr().String(), rig.clientConfig())
	if err != nil {
		rig.t.Fatal(err)
	}
	rig.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
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
	conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+testHost+"\r\n\r\n"); err != nil {
		return nil, err
	}
	return http.ReadResponse(bufio.NewReader(conn), nil)
}
