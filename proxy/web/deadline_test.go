package web

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

// timedConn is a connection that remembers its deadlines.
type timedConn struct {
	net.Conn

	mu   sync.Mutex
	ends [2]time.Time // of reading and of writing
}

func (c *timedConn) SetDeadline(t time.Time) error {
	c.note(t, 0, 1)
	return c.Conn.SetDeadline(t)
}

func (c *timedConn) SetReadDeadline(t time.Time) error {
	c.note(t, 0)
	return c.Conn.SetReadDeadline(t)
}

func (c *timedConn) SetWriteDeadline(t time.Time) error {
	c.note(t, 1)
	return c.Conn.SetWriteDeadline(t)
}

func (c *timedConn) note(t time.Time, which ...int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range which {
		c.ends[w] = t
	}
}

// timer keeps the connections of one relay, which are two.
type timer struct {
	mu    sync.Mutex
	conns []*timedConn
}

func (k *timer) keep(c net.Conn) *timedConn {
	k.mu.Lock()
	defer k.mu.Unlock()
	timed := &timedConn{Conn: c}
	k.conns = append(k.conns, timed)
	return timed
}

// wantNone fails if anything would end the two connections while both sides only wait. What lies in the
// past is no limit: it wakes a reader.
func (k *timer) wantNone(t *testing.T, when string) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.conns) != 2 {
		t.Errorf("%s there are %d connections, want one in and one out", when, len(k.conns))
	}
	for i, c := range k.conns {
		c.mu.Lock()
		for j, end := range c.ends {
			if time.Until(end) > 0 {
				t.Errorf("%s the %s of the %s would end in %v", when,
					[]string{"reading", "writing"}[j], []string{"client", "upstream"}[i], time.Until(end).Round(time.Second))
			}
		}
		c.mu.Unlock()
	}
}

// timedDialer is an testDialer whose connections are kept.
type timedDialer struct {
	*testDialer
	timer *timer
}

func (d timedDialer) DialTLS(ctx context.Context, h api.Host, _ uint16, alpn []string) (*tls.Conn, error) {
	raw, err := d.Dial(ctx, h, netip.Addr{}, 0)
	if err != nil {
		return nil, err
	}
	cfg := d.config.Clone()
	cfg.ServerName, cfg.NextProtos = string(h), alpn
	c := tls.Client(d.timer.keep(raw), cfg)
	return c, c.HandshakeContext(ctx)
}

// TestNoDeadlineOnceARequestIsRead holds a request and its answer open in the middle of a slow upload and
// of a slow stream of events: no deadline stands, so that either may take hours.
func TestNoDeadlineOnceARequestIsRead(t *testing.T) {
	for _, proto := range []string{"http/1.1", "h2"} {
		t.Run("it sets none for "+proto, func(t *testing.T) {
			checkLeaks(t)
			k := &timer{}
			arrived, answer := make(chan struct{}), make(chan struct{})
			client := relayOf(t, k, proto, func(w http.ResponseWriter, r *http.Request) {
				http.NewResponseController(w).EnableFullDuplex() //nolint:errcheck // HTTP/2 always is
				io.ReadFull(r.Body, make([]byte, 5))
				arrived <- struct{}{}
				io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", "text/event-stream")
				io.WriteString(w, "data: 1\n\n")
				w.(http.Flusher).Flush()
				<-answer
				io.WriteString(w, "data: 2\n\n")
			})
			body, send := io.Pipe()
			go func() {
				io.WriteString(send, "first")
				<-arrived
				k.wantNone(t, "during the upload")
				io.WriteString(send, " last")
				send.Close()
			}()
			req, _ := http.NewRequest("POST", "https://"+testHost+"/", body)
			req.Header.Set("Authorization", "Bearer "+testPlaceholder)
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if _, err := io.ReadFull(res.Body, make([]byte, 9)); err != nil {
				t.Fatal(err)
			}
			k.wantNone(t, "between two events")
			close(answer)
			if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "data: 2\n\n" {
				t.Errorf("the rest is %q, %v", rest, err)
			}
			if want := map[string]int{"http/1.1": 1, "h2": 2}[proto]; res.ProtoMajor != want {
				t.Errorf("spoke %s", res.Proto)
			}
		})
	}
}

// splitConn sends the first byte of what is written first by itself, so that a head is awaited.
type splitConn struct {
	net.Conn
	begun bool
}

func (c *splitConn) Write(p []byte) (int, error) {
	if c.begun || len(p) < 2 {
		return c.Conn.Write(p)
	}
	c.begun = true
	if n, err := c.Conn.Write(p[:1]); err != nil {
		return n, err
	}
	n, err := c.Conn.Write(p[1:])
	return n + 1, err
}

// relayOf starts an upstream of one protocol and a relay before it, both on timed connections, and returns
// a client of the relay.
func relayOf(t *testing.T, k *timer, proto string, h http.HandlerFunc) *http.Client {
	t.Helper()
	agentCA, roots := testAuthority(t)
	upCA, upRoots := testAuthority(t)
	leaf, err := upCA.Leaf(testHost)
	if err != nil {
		t.Fatal(err)
	}
	upstream, front := listen(t), listen(t)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(proto == "http/1.1")
	protocols.SetHTTP2(proto == "h2")
	up := &http.Server{Handler: h, Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{*leaf}}}
	dialer := timedDialer{&testDialer{addr: upstream.Addr().String(), config: &tls.Config{RootCAs: upRoots}}, k}
	entry := api.Entry{Name: "TEST_API_KEY", Placeholder: testPlaceholder, Binding: api.Binding{Hosts: []api.Pattern{{Host: testHost}}}}
	relay := New(Config{CA: agentCA, Dial: dialer, Swap: swap.New([]api.Entry{entry}, &testKeys{}), Audit: &h1records{}})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := up.ServeTLS(upstream, "", ""); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	wg.Go(func() {
		raw, err := front.Accept()
		if err != nil {
			return
		}
		hello := &proxy.Hello{ServerName: testHost, ALPN: []string{proto}}
		relay.ServeConn(ctx, &proxy.Conn{Conn: k.keep(raw), Host: testHost, Port: 443, ID: 1, Hello: hello}) //nolint:errcheck // ended by the cleanup
	})
	tr := &http.Transport{Protocols: protocols, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: testHost},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", front.Addr().String())
		}}
	if proto == "http/1.1" {
		tr.DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := tls.Dialer{Config: tr.TLSClientConfig}
			c, err := d.DialContext(ctx, "tcp", front.Addr().String())
			return &splitConn{Conn: c}, err
		}
	}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		front.Close()
		cancel()
		up.Close()
		relay.Close()
		wg.Wait()
	})
	return &http.Client{Transport: tr}
}
