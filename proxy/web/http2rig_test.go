package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

// h2rig is a Server between real TLS connections on the loopback.
type h2rig struct {
	t        testing.TB
	server   *Server
	front    net.Listener
	upstream net.Listener
	roots    *x509.CertPool // of the proxy's authority
	upRoots  *x509.CertPool
	records  *h2records
	keys     *testKeys
	events   chan error // what ServeConn returned
}

// h2records keeps audit events.
type h2records struct {
	mu     sync.Mutex
	events []audit.Event
	fail   error
	more   chan struct{} // one token an event
}

func (r *h2records) Record(e audit.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil && e.Kind == audit.Credential {
		return r.fail
	}
	if r.more == nil {
		return nil
	}
	r.events = append(r.events, e)
	select {
	case r.more <- struct{}{}:
	default:
	}
	return nil
}

// await returns the first event that matches, waiting for it.
func (r *h2records) await(t testing.TB, match func(audit.Event) bool) audit.Event {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		r.mu.Lock()
		for _, e := range r.events {
			if match(e) {
				r.mu.Unlock()
				return e
			}
		}
		r.mu.Unlock()
		select {
		case <-r.more:
		case <-deadline:
			t.Fatal("no such audit event came")
		}
	}
}

// newH2Rig starts a proxy in front of a TLS listener that speaks HTTP/2 only.
func newH2Rig(t testing.TB, options ...func(*testDialer)) *h2rig {
	t.Helper()
	checkLeaks(t)
	agentCA, roots := testAuthority(t)
	upCA, upRoots := testAuthority(t)
	leaf, err := upCA.Leaf(testHost)
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dialer := &testDialer{addr: upstream.Addr().String(), config: &tls.Config{RootCAs: upRoots}}
	for _, o := range options {
		o(dialer)
	}
	rig := &h2rig{t: t, front: front, upstream: upstream, roots: roots, upRoots: upRoots, keys: &testKeys{}, events: make(chan error, 1024)}
	rig.records = &h2records{more: make(chan struct{}, 4096)}
	entry := api.Entry{Name: "TEST_API_KEY", Placeholder: testPlaceholder, Binding: api.Binding{Hosts: []api.Pattern{{Host: testHost}}}}
	rig.server = New(Config{CA: agentCA, Dial: dialer, Swap: swap.New([]api.Entry{entry}, rig.keys), Audit: rig.records})
	rig.serve(testHost)
	return rig
}

// checkLeaks fails the test for goroutines that outlive it; it is registered
// first, so it looks last.
func checkLeaks(t testing.TB) {
	current := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, current) })
}

func (rig *h2rig) serve(host api.Host) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for id := uint64(1); ; id++ {
			raw, err := rig.front.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				conn := &proxy.Conn{Conn: raw, Host: host, Port: 443, ID: id,
					Hello: &proxy.Hello{ServerName: string(host), ALPN: []string{"h2"}}}
				err := rig.server.ServeConn(ctx, conn)
				select {
				case rig.events <- err:
				default:
				}
			})
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

// dial connects to the proxy as a client of HTTP/2.
func (rig *h2rig) dial(ctx context.Context) (net.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{RootCAs: rig.roots, ServerName: testHost, NextProtos: []string{"h2"}}}
	return d.DialContext(ctx, "tcp", rig.front.Addr().String())
}

// client returns a real client whose every connection goes through the proxy.
func (rig *h2rig) client() *http.Client {
	tr := &http2.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) { return rig.dial(ctx) },
	}
	rig.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// handle serves the rig's upstream with a real server.
func (rig *h2rig) handle(h http.HandlerFunc) {
	rig.handleWith(h, &http2.Server{MaxConcurrentStreams: 250})
}

func (rig *h2rig) handleWith(h http.HandlerFunc, limits *http2.Server) {
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	if err := http2.ConfigureServer(srv, limits); err != nil {
		rig.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := rig.upstream.Accept()
			if err != nil {
				return
			}
			tc := c.(*tls.Conn)
			if tc.Handshake() != nil {
				tc.Close()
				continue
			}
			go limits.ServeConn(tc, &http2.ServeConnOpts{BaseConfig: srv, Handler: h})
		}
	}()
	rig.t.Cleanup(func() {
		rig.upstream.Close()
		<-done
	})
}

func h2url(path string) string { return "https://" + testHost + path }

// fetch does a request and returns the answer with its body read.
func (rig *h2rig) fetch(c *http.Client, req *http.Request) (*http.Response, []byte) {
	rig.t.Helper()
	res, err := c.Do(req)
	if err != nil {
		rig.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		rig.t.Fatalf("read the body of %d: %v", res.StatusCode, err)
	}
	return res, body
}

func newRequest(t testing.TB, method, path string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequest(method, h2url(path), body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// keyed adds the placeholder where a bearer token stands.
func keyed(req *http.Request) *http.Request {
	req.Header.Set("Authorization", "Bearer "+testPlaceholder)
	return req
}

func mustNotHold(t testing.TB, what string, b []byte) {
	t.Helper()
	if bytes.Contains(b, []byte(testKey)) {
		t.Errorf("%s holds the real key", what)
	}
}
