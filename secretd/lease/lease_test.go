package lease

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/superserve/superserve/secretd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns two connected unix stream sockets, as a grant has.
func pair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return conn(t, fds[0]), conn(t, fds[1])
}

func conn(t testing.TB, fd int) net.Conn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "pair")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// keeper grants one secret, bound to api.x.com.
type keeper struct {
	calls atomic.Int64
	hold  chan struct{} // Resolve waits for it when it is not nil

	mu    sync.Mutex
	value []byte
	err   error
}

const placeholder = "sk-test-marker00-abcdef"

func (k *keeper) Entries() []api.Entry {
	p, _ := api.ParsePattern("api.x.com")
	return []api.Entry{{Name: "KEY", Placeholder: placeholder, Binding: api.Binding{Hosts: []api.Pattern{p}}}}
}

func (k *keeper) Resolve(ctx context.Context, r api.ResolveRequest) ([]byte, error) {
	k.calls.Add(1)
	if k.hold != nil {
		<-k.hold
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return nil, k.err
	}
	if r.Placeholder != placeholder {
		return nil, api.ErrUnknown
	}
	if r.Host != "api.x.com" {
		return nil, api.ErrHost
	}
	return k.value, nil
}

func (k *keeper) set(value string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.value, k.err = []byte(value), err
}

func request() api.ResolveRequest {
	return api.ResolveRequest{Placeholder: placeholder, Host: "api.x.com", Port: 443, Use: api.Use{Kind: api.UseBearer}}
}

// serve runs Serve on one end and returns the other. It waits at the test's end.
func serve(t testing.TB, k Keeper, changes chan api.Change) net.Conn {
	t.Helper()
	a, b := pair(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, a, k, changes) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return b
}

func open(t testing.TB, c net.Conn, o Options) *Lease {
	t.Helper()
	l, err := Open(c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mustResolve(t testing.TB, l *Lease, want string) {
	t.Helper()
	s, err := l.Resolve(t.Context(), request())
	if err != nil || string(s()) != want {
		t.Fatalf("Resolve: %v; want the value", err)
	}
}

func TestLease(t *testing.T) {
	k := &keeper{value: []byte("real-value")}
	l := open(t, serve(t, k, nil), Options{})
	if e := l.Entries(); len(e) != 1 || e[0].Name != "KEY" || e[0].Placeholder != placeholder || !e[0].Binding.Bound() {
		t.Fatalf("manifest %+v", e)
	}
	for range 3 {
		mustResolve(t, l, "real-value")
	}
	if n := k.calls.Load(); n != 1 {
		t.Errorf("asked %d times; want 1: the rest from the cache", n)
	}
	for name, tt := range map[string]struct {
		change func(*api.ResolveRequest)
		want   error
	}{
		"refuses another host":        {func(r *api.ResolveRequest) { r.Host = "evil.com" }, api.ErrHost},
		"refuses another placeholder": {func(r *api.ResolveRequest) { r.Placeholder = "x" }, api.ErrUnknown},
		"refuses a huge placeholder":  {func(r *api.ResolveRequest) { r.Placeholder = string(make([]byte, 70000)) }, api.ErrUnknown},
	} {
		t.Run("it "+name, func(t *testing.T) {
			r := request()
			tt.change(&r)
			if _, err := l.Resolve(t.Context(), r); !errors.Is(err, tt.want) {
				t.Fatalf("got %v; want %v", err, tt.want)
			}
		})
	}
	mustResolve(t, l, "real-value")
}

func TestLeaseCarriesErrors(t *testing.T) {
	k := &keeper{}
	l := open(t, serve(t, k, nil), Options{})
	for _, want := range []error{api.ErrUnbound, api.ErrRevoked, api.ErrUnavailable, api.ErrDenied} {
		k.set("", want)
		if _, err := l.Resolve(t.Context(), request()); !errors.Is(err, want) {
			t.Errorf("got %v; want %v", err, want)
		}
	}
	k.set("", errors.New("inner words"))
	if _, err := l.Resolve(t.Context(), request()); !errors.Is(err, api.ErrUnavailable) || err.Error() != api.ErrUnavailable.Error() {
		t.Errorf("got %v; want a bare ErrUnavailable", err)
	}
}

func TestLeaseForgetsAtOnce(t *testing.T) {
	k := &keeper{value: []byte("old-value")}
	changes, heard := make(chan api.Change), make(chan api.Change, 1)
	l := open(t, serve(t, k, changes), Options{OnChange: func(c api.Change) { heard <- c }})
	mustResolve(t, l, "old-value")
	before, _ := l.Resolve(t.Context(), request())

	k.set("new-value", nil)
	changes <- api.Change{Name: "KEY", Kind: api.Rotated}
	if c := <-heard; c.Kind != api.Rotated || c.Name != "KEY" {
		t.Fatalf("heard %+v", c)
	}
	mustResolve(t, l, "new-value")
	if string(before()) != "old-value" {
		t.Error("a Secret in use changed under its reader")
	}

	k.set("", api.ErrRevoked)
	changes <- api.Change{Name: "KEY", Kind: api.Revoked, Cut: true}
	if c := <-heard; c.Kind != api.Revoked || !c.Cut {
		t.Fatalf("heard %+v", c)
	}
	if _, err := l.Resolve(t.Context(), request()); !errors.Is(err, api.ErrRevoked) {
		t.Fatalf("got %v; want ErrRevoked", err)
	}
}

// TestLeaseDoesNotKeepAnOvertakenAnswer has a rotation arrive while the old value
// is on its way.
func TestLeaseDoesNotKeepAnOvertakenAnswer(t *testing.T) {
	var c cache
	c.reset(time.Hour)
	epoch := c.epoch()
	c.forget("KEY")
	c.put(request(), "KEY", func() []byte { return nil }, epoch)
	r := request()
	if _, ok := c.get(&r); ok {
		t.Fatal("an answer from before the change was kept")
	}
}

func TestLeaseEnds(t *testing.T) {
	k := &keeper{value: []byte("real-value")}
	l := open(t, serve(t, k, nil), Options{Lease: time.Nanosecond})
	mustResolve(t, l, "real-value")
	mustResolve(t, l, "real-value")
	if n := k.calls.Load(); n != 2 {
		t.Errorf("asked %d times; want 2: the lease had ended", n)
	}
}

func TestLeaseServesWhileSecretdIsAway(t *testing.T) {
	k := &keeper{value: []byte("real-value")}
	a, b := pair(t)
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), a, k, nil) }()
	l := open(t, b, Options{})
	mustResolve(t, l, "real-value")
	a.Close()
	<-done
	mustResolve(t, l, "real-value")
	r := request()
	r.Port = 8443
	if _, err := l.Resolve(t.Context(), r); !errors.Is(err, api.ErrUnavailable) {
		t.Fatalf("got %v; want ErrUnavailable", err)
	}
}

func TestLeaseRedials(t *testing.T) {
	k := &keeper{value: []byte("real-value")}
	a, b := pair(t)
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), a, k, nil) }()
	next := make(chan net.Conn)
	l := open(t, b, Options{Redial: func(ctx context.Context) (net.Conn, error) {
		select {
		case c := <-next:
			return c, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}})
	mustResolve(t, l, "real-value")
	a.Close()
	<-done
	mustResolve(t, l, "real-value") // leased

	k.set("rotated-meanwhile", nil)
	next <- serve(t, k, nil)
	for {
		s, err := l.Resolve(t.Context(), request())
		if err != nil {
			t.Fatal(err)
		}
		if string(s()) == "rotated-meanwhile" {
			return
		}
	}
}

func TestLeaseHearsOfRevocationAtRedial(t *testing.T) {
	for name, redial := range map[string]func(*testing.T) (net.Conn, error){
		"refused": func(*testing.T) (net.Conn, error) { return nil, api.ErrUnknown },
		"empty manifest": func(t *testing.T) (net.Conn, error) {
			return serve(t, nothing{}, nil), nil
		},
	} {
		t.Run("it ends when "+name, func(t *testing.T) {
			k := &keeper{value: []byte("real-value")}
			a, b := pair(t)
			done := make(chan error, 1)
			go func() { done <- Serve(t.Context(), a, k, nil) }()
			heard := make(chan api.Change, 1)
			l := open(t, b, Options{
				Redial:   func(context.Context) (net.Conn, error) { return redial(t) },
				OnChange: func(c api.Change) { heard <- c },
			})
			mustResolve(t, l, "real-value")
			a.Close()
			<-done
			if c := <-heard; c.Kind != api.Revoked || c.Name != "KEY" {
				t.Fatalf("heard %+v", c)
			}
			_, err := l.Resolve(t.Context(), request())
			if !errors.Is(err, api.ErrRevoked) && !errors.Is(err, api.ErrUnavailable) && !errors.Is(err, api.ErrUnknown) {
				t.Fatalf("got %v; want a refusal", err)
			}
		})
	}
}

type nothing struct{}

func (nothing) Entries() []api.Entry { return nil }
func (nothing) Resolve(context.Context, api.ResolveRequest) ([]byte, error) {
	return nil, api.ErrUnknown
}

func TestThousandConcurrentResolves(t *testing.T) {
	k := &keeper{value: []byte("real-value")}
	l := open(t, serve(t, k, nil), Options{Lease: -1})
	var wait sync.WaitGroup
	var failed atomic.Int64
	for range 1000 {
		wait.Go(func() {
			s, err := l.Resolve(t.Context(), request())
			if err != nil || string(s()) != "real-value" {
				failed.Add(1)
			}
		})
	}
	wait.Wait()
	if n := failed.Load(); n != 0 || k.calls.Load() != 1000 {
		t.Fatalf("%d of 1000 failed, %d calls", n, k.calls.Load())
	}
}

func TestCacheIsBounded(t *testing.T) {
	var c cache
	c.reset(time.Hour)
	for i := range 3 * maxCached {
		r := request()
		r.Port = uint16(i)
		c.put(r, "KEY", func() []byte { return nil }, c.epoch())
	}
	if len(c.cells) > maxCached {
		t.Fatalf("%d cells; want at most %d", len(c.cells), maxCached)
	}
}

func TestServeEnds(t *testing.T) {
	t.Run("it is nil when the peer closes", func(t *testing.T) {
		a, b := pair(t)
		done := make(chan error, 1)
		go func() { done <- Serve(context.Background(), a, &keeper{}, nil) }()
		open(t, b, Options{}).Close()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
	t.Run("it waits for requests in flight", func(t *testing.T) {
		k := &keeper{hold: make(chan struct{})}
		a, b := pair(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, a, k, nil) }()
		l := open(t, b, Options{})
		asked := make(chan error, 1)
		go func() {
			_, err := l.Resolve(context.Background(), request())
			asked <- err
		}()
		for k.calls.Load() == 0 {
			runtime.Gosched()
		}
		cancel()
		select {
		case err := <-done:
			t.Fatalf("Serve returned %v with a request in flight", err)
		default:
		}
		close(k.hold)
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v; want context.Canceled", err)
		}
		if err := <-asked; !errors.Is(err, api.ErrUnavailable) {
			t.Fatalf("got %v; want ErrUnavailable", err)
		}
	})
}

// BenchmarkResolve sets a cached answer and one over the socket beside a bare echo
// of the same bytes on a unix socket, in one run.
func BenchmarkResolve(b *testing.B) {
	k := &keeper{value: []byte("sk-ant-api03-0123456789012345678901234567890123456789")}
	b.Run("cached", func(b *testing.B) {
		l := open(b, serve(b, k, nil), Options{})
		ctx, r := b.Context(), request()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := l.Resolve(ctx, r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("socket", func(b *testing.B) {
		l := open(b, serve(b, k, nil), Options{Lease: -1})
		ctx, r := b.Context(), request()
		for b.Loop() {
			if _, err := l.Resolve(ctx, r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("echo", func(b *testing.B) {
		near, far := pair(b)
		defer near.Close()
		defer far.Close()
		go echo(far)
		p := make([]byte, 66)
		for b.Loop() {
			if _, err := near.Write(p); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(near, p); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func echo(c net.Conn) {
	p := make([]byte, 4096)
	for {
		n, err := c.Read(p)
		if err != nil {
			return
		}
		if _, err := c.Write(p[:n]); err != nil {
			return
		}
	}
}
