package ferry

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a Pair between two connections of the test, which has their other ends.
type rig struct {
	pair             *Pair
	client, upstream net.Conn
	done             chan [2]Moved
}

// start relays. With TLS the test's ends speak it, and the Pair on both of its own.
func start(t *testing.T, secure bool, up, down Look) *rig {
	t.Helper()
	inner, client := proxytest.Pair(t)
	outer, upstream := proxytest.Pair(t)
	proxytest.Deadline(t, client)
	proxytest.Deadline(t, upstream)
	r := &rig{client: client, upstream: upstream, done: make(chan [2]Moved, 1)}
	var from, to net.Conn
	low, high := &swappable{inner}, &swappable{outer}
	if from, to = low, high; secure {
		from, to = r.secure(t, low, high)
	}
	pair, err := Take(inner, outer, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.pair, low.Conn, high.Conn = pair, pair.Client, pair.Upstream
	if !secure {
		from, to = pair.Client, pair.Upstream
	}
	go func() {
		sent, received := pair.Run(Way{from, to, up}, Way{to, from, down})
		r.done <- [2]Moved{sent, received}
	}()
	return r
}

type swappable struct{ net.Conn }

func (r *rig) secure(t *testing.T, low, high net.Conn) (from, to net.Conn) {
	t.Helper()
	authority, err := ca.New()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := authority.Leaf("db.example.com")
	if err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{*leaf}}
	anyone := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the test has both ends
	a, b := tls.Server(low, server), tls.Client(high, anyone)
	c, d := tls.Client(r.client, anyone), tls.Server(r.upstream, server)
	var wg sync.WaitGroup
	for _, conn := range []*tls.Conn{a, b, c, d} {
		wg.Go(func() {
			if err := conn.Handshake(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r.client, r.upstream = c, d
	return a, b
}

func kinds(t *testing.T, f func(t *testing.T, secure bool)) {
	for _, secure := range []bool{false, true} {
		name := "in clear"
		if secure {
			name = "over TLS"
		}
		t.Run(name, func(t *testing.T) { f(t, secure) })
	}
}

func TestPair(t *testing.T) {
	kinds(t, func(t *testing.T, secure bool) {
		t.Run("it moves both ways at once more than sockets hold, and each end", func(t *testing.T) {
			r := start(t, secure, nil, nil)
			want := make([]byte, 32<<20)
			_, _ = rand.Read(want)
			var wg sync.WaitGroup
			send := func(c net.Conn) {
				if _, err := c.Write(want); err != nil {
					t.Error(err)
				}
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
			}
			get := func(c net.Conn) {
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
			wg.Go(func() { send(r.client) })
			wg.Go(func() { get(r.upstream); send(r.upstream) })
			wg.Go(func() { get(r.client) })
			wg.Wait()
			for _, m := range <-r.done {
				if m.Bytes != int64(len(want)) || !m.Ended || m.Err != nil {
					t.Errorf("moved %+v", m)
				}
			}
		})
		t.Run("it keeps what one side does not read no longer than the sockets are full", func(t *testing.T) {
			r := start(t, secure, nil, nil)
			_ = r.client.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			n, err := io.Copy(r.client, zeros{})
			if e := net.Error(nil); !errors.As(err, &e) || !e.Timeout() || n > 64<<20 {
				t.Errorf("wrote %d bytes that nobody read, %v", n, err)
			}
			_ = r.pair.Close()
			<-r.done
			if kept := len(r.pair.Upstream.rest); kept > 2*bufferSize {
				t.Errorf("it kept %d bytes", kept)
			}
		})
		t.Run("it ends at once when it is closed", func(t *testing.T) {
			r := start(t, secure, nil, nil)
			exchange(t, r, "ping")
			_ = r.pair.Client.SetLinger(0)
			_ = r.pair.Client.Close()
			moved := <-r.done
			if moved[0].Err == nil && moved[1].Err == nil {
				t.Errorf("moved %+v: no reason", moved)
			}
			if n, err := r.upstream.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("the upstream's side reads %d bytes, %v", n, err)
			}
			_ = r.pair.Close()
		})
		t.Run("it ends when the upstream does", func(t *testing.T) {
			r := start(t, secure, nil, nil)
			exchange(t, r, "ping")
			_ = r.upstream.Close()
			if _, err := r.client.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("the client reads %v", err)
			}
			if moved := <-r.done; !moved[1].Ended || moved[0].Ended {
				t.Errorf("moved %+v", moved)
			}
		})
	})
}

func exchange(t *testing.T, r *rig, text string) {
	t.Helper()
	got := make([]byte, len(text))
	for _, way := range [][2]net.Conn{{r.client, r.upstream}, {r.upstream, r.client}} {
		if _, err := io.WriteString(way[0], text); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(way[1], got); err != nil || string(got) != text {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestLook has a direction wait, change what passes, and refuse.
func TestLook(t *testing.T) {
	refused := errors.New("refused")
	kinds(t, func(t *testing.T, secure bool) {
		waiting := make(chan struct{})
		held := ""
		look := func(p []byte, _ bool) ([]byte, func(), error) {
			switch string(p) {
			case "wait":
				return []byte("before "), func() { <-waiting; held = "after" }, nil
			case "":
				out := []byte(held)
				held = ""
				return out, nil, nil
			case "bad":
				return []byte("last"), nil, refused
			}
			return bytes.ToUpper(p), nil, nil
		}
		r := start(t, secure, look, nil)
		say := func(text, want string) {
			t.Helper()
			_, _ = io.WriteString(r.client, text)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(r.upstream, got); err != nil || string(got) != want {
				t.Errorf("%q, %v, want %q", got, err, want)
			}
		}
		say("ping", "PING")
		say("wait", "before ")
		_, _ = io.WriteString(r.upstream, "beside") // the other direction goes on
		if _, err := io.ReadFull(r.client, make([]byte, 6)); err != nil {
			t.Error(err)
		}
		close(waiting)
		say("", "after")
		say("bad", "last")
		if moved := <-r.done; moved[0].Err != refused || moved[0].Bytes != 4+7+5+4 || moved[1].Bytes != 6 {
			t.Errorf("moved %+v", moved)
		}
	})
}

// TestTakenWhileItIsClosed has somebody who does not know of the Pair close what it was
// made of.
func TestTakenWhileItIsClosed(t *testing.T) {
	inner, client := proxytest.Pair(t)
	outer, _ := proxytest.Pair(t)
	pair, err := Take(inner, outer, []byte("head"))
	if err != nil {
		t.Fatal(err)
	}
	inner.Close()
	sent, received := pair.Run(Way{From: pair.Client, To: pair.Upstream}, Way{From: pair.Upstream, To: pair.Client})
	if sent.Err == nil && received.Err == nil {
		t.Errorf("moved %+v, %+v", sent, received)
	}
	proxytest.Deadline(t, client)
	if n, err := client.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the client reads %d bytes, %v", n, err)
	}
	if _, err := Take(inner, outer, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("took a closed connection: %v", err)
	}
}

// TestMany relays pairs that come and go.
func TestMany(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				r := start(t, false, nil, nil)
				exchange(t, r, "a message")
				r.client.Close()
				r.upstream.Close()
				<-r.done
			}
		})
	}
	wg.Wait()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.count != 0 || len(shared.resume) != 0 {
		t.Errorf("%d pairs are left, %d to look at", shared.count, len(shared.resume))
	}
}
