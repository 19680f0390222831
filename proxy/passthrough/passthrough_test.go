package passthrough

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/dial"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/proxytest"
	"github.com/superserve/superserve/secretd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixed dials one connection, or fails.
type fixed struct {
	conn net.Conn
	err  error
}

func (f fixed) Dial(context.Context, api.Host, netip.Addr, uint16) (net.Conn, error) {
	return f.conn, f.err
}

// relay is one relayed connection: what the agent holds and what the upstream
// holds.
type relayed struct {
	client, upstream *net.TCPConn
	recorder         *proxytest.Recorder
	done             chan error
	cancel           context.CancelFunc
}

func start(t *testing.T) *relayed {
	t.Helper()
	client, local := proxytest.Pair(t)
	far, upstream := proxytest.Pair(t)
	proxytest.Deadline(t, client)
	proxytest.Deadline(t, upstream)
	r := &relayed{client: client, upstream: upstream, recorder: proxytest.NewRecorder(), done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	c := &proxy.Conn{Conn: local, Host: "a.com", Port: 443, ID: 7, Verdict: egress.Decision{Allow: true, Rule: "public"}}
	go func() { r.done <- New(Config{Dial: fixed{conn: far}, Audit: r.recorder}).ServeConn(ctx, c) }()
	t.Cleanup(cancel)
	return r
}

func TestRelay(t *testing.T) {
	t.Run("it passes bytes both ways, ends one side at a time and counts", func(t *testing.T) {
		r := start(t)
		request, answer := bytes.Repeat([]byte("q"), 300_000), bytes.Repeat([]byte("a"), 500_000)
		go func() {
			r.client.Write(request)
			r.client.CloseWrite()
		}()
		got, err := io.ReadAll(r.upstream)
		if err != nil || !bytes.Equal(got, request) {
			t.Fatalf("upstream got %d bytes, %v", len(got), err)
		}
		go func() {
			r.upstream.Write(answer) // after the client's end: half-close
			r.upstream.Close()
		}()
		got, err = io.ReadAll(r.client)
		if err != nil || !bytes.Equal(got, answer) {
			t.Fatalf("client got %d bytes, %v", len(got), err)
		}
		if err := <-r.done; err != nil {
			t.Errorf("ServeConn: %v", err)
		}
		e := r.recorder.Wait(t, 1)[0]
		if e.Sent != int64(len(request)) || e.Received != int64(len(answer)) || e.Name != "a.com" || e.Conn != 7 ||
			e.Verdict != audit.Allowed || e.Rule != "public" || e.Reason != "" || e.Duration <= 0 {
			t.Errorf("event = %+v", e)
		}
	})
	t.Run("it resets the client when the upstream resets", func(t *testing.T) {
		r := start(t)
		r.upstream.SetLinger(0)
		r.upstream.Close()
		if _, err := r.client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("client read: %v, want a reset", err)
		}
		<-r.done
		if e := r.recorder.Wait(t, 1)[0]; e.Reason != "cut" {
			t.Errorf("event = %+v", e)
		}
	})
	t.Run("it resets the upstream when the client resets", func(t *testing.T) {
		r := start(t)
		r.client.SetLinger(0)
		r.client.Close()
		if _, err := r.upstream.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("upstream read: %v, want a reset", err)
		}
		<-r.done
	})
	t.Run("it ends with its context", func(t *testing.T) {
		r := start(t)
		r.cancel()
		<-r.done
		if _, err := r.client.Read(make([]byte, 1)); err == nil {
			t.Error("the client is still connected")
		}
	})
}

func TestRelayOverPipes(t *testing.T) {
	client, local := net.Pipe()
	far, upstream := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- New(Config{Dial: fixed{conn: far}}).ServeConn(t.Context(), &proxy.Conn{Conn: local, Host: "a.com", Port: 1})
	}()
	go func() { client.Write([]byte("x")); client.Close() }()
	if got, err := io.ReadAll(upstream); err != nil || string(got) != "x" {
		t.Errorf("upstream got %q, %v", got, err)
	}
	upstream.Close()
	<-done
}

// refuser notes what it is given.
type refuser struct{ verdict chan egress.Decision }

func (refuser) Name() string { return "refuse" }

func (r refuser) ServeConn(_ context.Context, c *proxy.Conn) error {
	r.verdict <- c.Verdict
	return c.Close()
}

func TestRelayWithoutUpstream(t *testing.T) {
	unreachable := fixed{err: &dial.Error{Op: dial.OpConnect, Err: syscall.ECONNREFUSED}}
	t.Run("it tells a TLS client why", func(t *testing.T) {
		_, local := proxytest.Pair(t)
		recorder, refuse := proxytest.NewRecorder(), refuser{make(chan egress.Decision, 1)}
		relay := New(Config{Dial: unreachable, Refuse: refuse, Audit: recorder})
		if err := relay.ServeConn(t.Context(), &proxy.Conn{Conn: local, Host: "a.com", Port: 443, Hello: &proxy.Hello{}}); err == nil {
			t.Error("no error for the log")
		}
		if v := <-refuse.verdict; v.Allow || v.Reason != dial.ReasonRefused {
			t.Errorf("verdict = %+v", v)
		}
		if e := recorder.Wait(t, 1)[0]; e.Verdict != audit.Failed || e.Reason != dial.ReasonRefused {
			t.Errorf("event = %+v", e)
		}
	})
	t.Run("it records a refused address as a refusal", func(t *testing.T) {
		_, local := proxytest.Pair(t)
		recorder, refuse := proxytest.NewRecorder(), refuser{make(chan egress.Decision, 1)}
		rebound := &dial.Error{Op: dial.OpRefuse, Err: &dial.Refused{Decision: egress.Decision{Rule: egress.Metadata, Reason: egress.ReasonAddress}}}
		relay := New(Config{Dial: fixed{err: rebound}, Refuse: refuse, Audit: recorder})
		if err := relay.ServeConn(t.Context(), &proxy.Conn{Conn: local, Host: "a.com", Port: 443, Hello: &proxy.Hello{}}); err == nil {
			t.Error("no error for the log")
		}
		if v := <-refuse.verdict; v.Rule != egress.Metadata || v.Reason != egress.ReasonAddress {
			t.Errorf("verdict = %+v", v)
		}
		if e := recorder.Wait(t, 1)[0]; e.Verdict != audit.Refused || e.Rule != egress.Metadata || e.Reason != egress.ReasonAddress {
			t.Errorf("event = %+v", e)
		}
	})
	t.Run("it resets any other client", func(t *testing.T) {
		client, local := proxytest.Pair(t)
		proxytest.Deadline(t, client)
		relay := New(Config{Dial: unreachable})
		if err := relay.ServeConn(t.Context(), &proxy.Conn{Conn: local, Dest: netip.MustParseAddrPort("1.1.1.1:80"), Port: 80}); err == nil {
			t.Error("no error for the log")
		}
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("client read: %v, want a reset", err)
		}
	})
}

// BenchmarkRelay moves 64 MiB from an upstream to a client, through the relay and
// through io.Copy between the same sockets, which is what the kernel can do.
func BenchmarkRelay(b *testing.B) {
	const size = 64 << 20
	plain := func(ctx context.Context, local, far *net.TCPConn) {
		io.Copy(local, far)
		local.Close()
		far.Close()
	}
	through := func(ctx context.Context, local, far *net.TCPConn) {
		New(Config{Dial: fixed{conn: far}}).ServeConn(ctx, &proxy.Conn{Conn: local, Host: "a.com", Port: 443})
	}
	for name, move := range map[string]func(context.Context, *net.TCPConn, *net.TCPConn){"splice": plain, "relay": through} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				client, local := proxytest.Pair(b)
				far, upstream := proxytest.Pair(b)
				done := make(chan struct{})
				go func() { move(b.Context(), local, far); close(done) }()
				go func() {
					chunk := make([]byte, 1<<20)
					for range size / len(chunk) {
						upstream.Write(chunk)
					}
					upstream.Close()
				}()
				if n, _ := io.Copy(io.Discard, client); n != size {
					b.Fatalf("%d bytes", n)
				}
				client.Close()
				<-done
			}
		})
	}
}
