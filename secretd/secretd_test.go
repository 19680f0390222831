package secretd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/superserve/superserve/secretd"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/lease"
	"github.com/superserve/superserve/secretd/private"
	"github.com/superserve/superserve/secretd/secretdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const realKey = "sk-ant-api03-REALREALREALREALREALREALREALREALREALREALREALREAL"

func set(t testing.TB, d *secretdtest.Daemon, name, value string) {
	t.Helper()
	if _, err := d.Client.Set(t.Context(), "my-agent", []api.Setting{{Name: name, Value: []byte(value)}}); err != nil {
		t.Fatal(err)
	}
}

func bindingOf(t testing.TB, hosts, uses string) api.Binding {
	t.Helper()
	var b api.Binding
	for _, h := range strings.Fields(hosts) {
		p, err := api.ParsePattern(h)
		if err != nil {
			t.Fatal(err)
		}
		b.Hosts = append(b.Hosts, p)
	}
	for _, u := range strings.Fields(uses) {
		p, err := api.ParseUse(u)
		if err != nil {
			t.Fatal(err)
		}
		b.Uses = append(b.Uses, p)
	}
	return b
}

// patterns lets cmp compare patterns, which hold addresses of package netip.
func patterns() cmp.Option { return cmp.Comparer(func(a, b api.Pattern) bool { return a == b }) }

// run is a live grant with the proxy's end open.
type run struct {
	*lease.Lease
	reply   api.GrantReply
	changes chan api.Change
}

func grant(t testing.TB, d *secretdtest.Daemon, wanted ...api.Wanted) run {
	t.Helper()
	return grantTo(t, d, "run-1", wanted...)
}

func grantTo(t testing.TB, d *secretdtest.Daemon, id string, wanted ...api.Wanted) run {
	t.Helper()
	reply, file, err := d.Client.Grant(t.Context(), api.GrantRequest{Agent: "my-agent", Run: id, Secrets: wanted})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	changes := make(chan api.Change, 16)
	l, err := lease.Open(conn, lease.Options{
		Redial:   func(ctx context.Context) (net.Conn, error) { return d.Client.Resume(ctx, reply.Resume) },
		OnChange: func(c api.Change) { changes <- c },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return run{l, reply, changes}
}

func (r run) request(name, host string) api.ResolveRequest {
	req := api.ResolveRequest{Host: api.Host(host), Port: 443, Use: api.Use{Kind: api.UseBearer}}
	for _, e := range r.reply.Entries {
		if e.Name == name {
			req.Placeholder = e.Placeholder
		}
	}
	return req
}

func (r run) want(t testing.TB, req api.ResolveRequest, value string) {
	t.Helper()
	s, err := r.Resolve(t.Context(), req)
	if err != nil || string(s()) != value {
		t.Fatalf("resolve for %s: %v; want the value", req.Host, err)
	}
}

func (r run) refuses(t testing.TB, req api.ResolveRequest, want error) {
	t.Helper()
	if _, err := r.Resolve(t.Context(), req); !errors.Is(err, want) {
		t.Fatalf("resolve for %s: got %v; want %v", req.Host, err, want)
	}
}

func TestMainPath(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "ANTHROPIC_API_KEY", realKey)
	r := grant(t, d, api.Wanted{Name: "ANTHROPIC_API_KEY"})
	if diff := cmp.Diff(r.reply.Entries, r.Entries(), patterns()); diff != "" {
		t.Fatalf("the manifest differs from the reply: %s", diff)
	}
	e := r.Entries()[0]
	if !strings.HasPrefix(e.Placeholder, "sk-ant-api03-") || len(e.Placeholder) != len(realKey) || e.Placeholder == realKey {
		t.Fatalf("placeholder %q", e.Placeholder)
	}
	req := r.request("ANTHROPIC_API_KEY", "api.anthropic.com")
	r.want(t, req, realKey)
	for name, tt := range map[string]struct {
		change func(*api.ResolveRequest)
		want   error
	}{
		"refuses another host":        {func(q *api.ResolveRequest) { q.Host = "api.openai.com" }, api.ErrHost},
		"refuses a host below":        {func(q *api.ResolveRequest) { q.Host = "x.api.anthropic.com" }, api.ErrHost},
		"refuses another port":        {func(q *api.ResolveRequest) { q.Port = 8443 }, api.ErrHost},
		"refuses port 80":             {func(q *api.ResolveRequest) { q.Port = 80 }, api.ErrHost},
		"refuses another place":       {func(q *api.ResolveRequest) { q.Use.Kind = api.UseBasic }, api.ErrHost},
		"refuses an address":          {func(q *api.ResolveRequest) { q.Host, q.Addr = "", "203.0.113.7" }, api.ErrHost},
		"refuses host and address":    {func(q *api.ResolveRequest) { q.Addr = "203.0.113.7" }, api.ErrHost},
		"refuses no destination":      {func(q *api.ResolveRequest) { q.Host = "" }, api.ErrHost},
		"refuses another placeholder": {func(q *api.ResolveRequest) { q.Placeholder = strings.Repeat("x", len(q.Placeholder)) }, api.ErrUnknown},
		"refuses a cut placeholder":   {func(q *api.ResolveRequest) { q.Placeholder = q.Placeholder[1:] }, api.ErrUnknown},
		"refuses none":                {func(q *api.ResolveRequest) { q.Placeholder = "" }, api.ErrUnknown},
		"refuses the name":            {func(q *api.ResolveRequest) { q.Placeholder = "ANTHROPIC_API_KEY" }, api.ErrUnknown},
		"refuses the value":           {func(q *api.ResolveRequest) { q.Placeholder = realKey }, api.ErrUnknown},
	} {
		t.Run("it "+name, func(t *testing.T) {
			q := req
			tt.change(&q)
			r.refuses(t, q, tt.want)
		})
	}
}

func TestGrantsAreApart(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "OPENAI_API_KEY", "sk-proj-"+strings.Repeat("R", 60))
	a, b := grant(t, d, api.Wanted{Name: "OPENAI_API_KEY"}), grant(t, d, api.Wanted{Name: "OPENAI_API_KEY"})
	if a.reply.Entries[0].Placeholder == b.reply.Entries[0].Placeholder {
		t.Fatal("two runs have one placeholder")
	}
	req := a.request("OPENAI_API_KEY", "api.openai.com")
	a.want(t, req, "sk-proj-"+strings.Repeat("R", 60))
	b.refuses(t, req, api.ErrUnknown)
}

func TestMissingSecrets(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "B_KEY", "value-of-b")
	_, _, err := d.Client.Grant(t.Context(), api.GrantRequest{Agent: "my-agent", Run: "r", Secrets: []api.Wanted{{Name: "Z_KEY"}, {Name: "B_KEY"}, {Name: "A_KEY"}}})
	var missing *api.MissingError
	if !errors.As(err, &missing) || !errors.Is(err, api.ErrNotFound) {
		t.Fatalf("got %v; want a MissingError", err)
	}
	if diff := cmp.Diff(&api.MissingError{Agent: "my-agent", Names: []string{"Z_KEY", "A_KEY"}}, missing); diff != "" {
		t.Fatalf("-want +got\n%s", diff)
	}
}

func TestRotationAndRevocation(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "ANTHROPIC_API_KEY", realKey)
	r := grant(t, d, api.Wanted{Name: "ANTHROPIC_API_KEY"})
	req := r.request("ANTHROPIC_API_KEY", "api.anthropic.com")
	r.want(t, req, realKey)

	set(t, d, "ANTHROPIC_API_KEY", "another-real-key")
	done := time.Now() // what a disk takes that others use does not count
	if c := <-r.changes; c.Kind != api.Rotated {
		t.Fatalf("heard %+v", c)
	}
	r.want(t, req, "another-real-key")
	took := time.Since(done)

	if _, err := d.Client.Delete(t.Context(), "my-agent", "ANTHROPIC_API_KEY", true); err != nil {
		t.Fatal(err)
	}
	done = time.Now()
	if c := <-r.changes; c.Kind != api.Revoked || !c.Cut {
		t.Fatalf("heard %+v", c)
	}
	r.refuses(t, req, api.ErrRevoked)
	if took += time.Since(done); took > time.Second {
		t.Errorf("a rotation and a revocation took %v; want at most 1 s", took)
	}

	set(t, d, "ANTHROPIC_API_KEY", "set-anew-after-deletion")
	<-r.changes
	r.refuses(t, req, api.ErrRevoked)
}

func TestRestartWithALiveLease(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "ANTHROPIC_API_KEY", realKey)
	set(t, d, "OPENAI_API_KEY", "sk-proj-"+strings.Repeat("R", 60))
	r := grant(t, d, api.Wanted{Name: "ANTHROPIC_API_KEY"}, api.Wanted{Name: "OPENAI_API_KEY"})
	req := r.request("ANTHROPIC_API_KEY", "api.anthropic.com")
	r.want(t, req, realKey)
	if _, err := d.Client.Resume(t.Context(), r.reply.Resume); !errors.Is(err, api.ErrDenied) {
		t.Fatalf("a second channel while the first is open: %v; want ErrDenied", err)
	}
	d.Stop()
	r.want(t, req, realKey) // leased
	d.Restart()
	// Not leased before, so only a resumed channel can answer.
	r.want(t, r.request("OPENAI_API_KEY", "api.openai.com"), "sk-proj-"+strings.Repeat("R", 60))
	set(t, d, "ANTHROPIC_API_KEY", "rotated-after-restart")
	if c := <-r.changes; c.Name != "ANTHROPIC_API_KEY" {
		t.Fatalf("heard %+v", c)
	}
	r.want(t, req, "rotated-after-restart")

	r.Close()
	waitFor(t, func() bool {
		h, err := d.Client.Health(t.Context())
		return err == nil && h.Grants == 0
	})
	if _, err := d.Client.Resume(t.Context(), r.reply.Resume); !errors.Is(err, api.ErrUnknown) {
		t.Fatalf("resume after the grant ended: %v; want ErrUnknown", err)
	}
	d.Restart()
	if _, err := d.Client.Resume(t.Context(), r.reply.Resume); !errors.Is(err, api.ErrUnknown) {
		t.Fatalf("resume after the grant ended and a restart: %v; want ErrUnknown", err)
	}
}

// waitFor asks until it is so; every question is a round trip to the daemon.
func waitFor(t testing.TB, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !so(); {
		if time.Now().After(deadline) {
			t.Fatal("not so after a minute")
		}
	}
}

func TestResumeRefusesOtherTokens(t *testing.T) {
	d := secretdtest.Start(t)
	for _, token := range []string{"", "00", strings.Repeat("0", 64), strings.Repeat("x", 64), strings.Repeat("0", 4096)} {
		if _, err := d.Client.Resume(t.Context(), token); !errors.Is(err, api.ErrUnknown) {
			t.Errorf("token of %d: %v; want ErrUnknown", len(token), err)
		}
	}
}

func TestRevokedWhileSecretdWasAway(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "ANTHROPIC_API_KEY", realKey)
	r := grant(t, d, api.Wanted{Name: "ANTHROPIC_API_KEY"})
	req := r.request("ANTHROPIC_API_KEY", "api.anthropic.com")
	r.want(t, req, realKey)
	d.Stop()
	// Another daemon on the same store, without the socket that the lease redials.
	other, err := secretd.Open(t.Context(), secretd.Config{State: d.Dir})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(d.Dir, "other", "s.sock")
	sockets, err := secretd.Listen(socket, secretd.Sockets{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- other.Serve(ctx, sockets) }()
	if _, err := client.New(socket).Delete(t.Context(), "my-agent", "ANTHROPIC_API_KEY", false); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := errors.Join(<-done, other.Close()); err != nil {
		t.Fatal(err)
	}
	d.Restart()
	if c := <-r.changes; c.Kind != api.Revoked || c.Name != "ANTHROPIC_API_KEY" {
		t.Fatalf("heard %+v", c)
	}
	r.refuses(t, req, api.ErrRevoked)
}

// TestNothingInClear greps every file under the state directory, while the daemon
// lives and after, for every value and for what stands for authority.
func TestNothingInClear(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "ANTHROPIC_API_KEY", realKey)
	set(t, d, "BIG_KEY", strings.Repeat("BIGVALUE", 8000))
	set(t, d, "BIG_KEY", "rotated-value-of-the-big-key")
	r := grant(t, d, api.Wanted{Name: "ANTHROPIC_API_KEY"}, api.Wanted{Name: "BIG_KEY", Expose: true})
	r.want(t, r.request("ANTHROPIC_API_KEY", "api.anthropic.com"), realKey)
	needles := []string{realKey, realKey[13:40], "BIGVALUEBIGVALUE", "rotated-value", r.reply.Resume, r.reply.Entries[0].Placeholder}
	search(t, d.Dir, needles)
	d.Stop()
	search(t, d.Dir, needles)
}

func search(t *testing.T, dir string, needles []string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files++
		p, err := os.ReadFile(path)
		for _, n := range needles {
			if bytes.Contains(p, []byte(n)) {
				t.Errorf("%s holds a value or a token", path)
			}
		}
		if info, _ := e.Info(); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil || files < 4 {
		t.Fatalf("looked at %d files, %v", files, err)
	}
}

func TestThousandConcurrentResolves(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "MY_KEY", "a-value-of-mine")
	wild := bindingOf(t, "*.x.com", "")
	r := grant(t, d, api.Wanted{Name: "MY_KEY", Binding: &wild})
	var wait sync.WaitGroup
	var failed atomic.Int64
	for i := range 1000 {
		wait.Go(func() {
			s, err := r.Resolve(t.Context(), r.request("MY_KEY", fmt.Sprintf("h%d.x.com", i)))
			if err != nil || string(s()) != "a-value-of-mine" {
				failed.Add(1)
			}
		})
	}
	wait.Wait()
	if failed.Load() != 0 {
		t.Fatalf("%d of 1000 failed", failed.Load())
	}
}

func TestSecondDaemon(t *testing.T) {
	d := secretdtest.Start(t)
	if _, err := secretd.Open(t.Context(), secretd.Config{State: d.Dir}); !errors.Is(err, private.ErrLocked) {
		t.Errorf("on the same store: %v; want ErrLocked", err)
	}
	if _, err := secretd.Listen(d.Socket, secretd.Sockets{}); err == nil || !strings.Contains(err.Error(), "another secretd listens") {
		t.Errorf("on the same socket: %v", err)
	}
	if _, err := d.Client.Health(t.Context()); err != nil {
		t.Errorf("the first one suffers: %v", err)
	}
}

func TestKeyOfAnotherStore(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "MY_KEY", "a-value-of-mine")
	d.Stop()
	key := filepath.Join(d.Dir, "secretd", "key")
	original, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	open := func() error {
		daemon, err := secretd.Open(t.Context(), secretd.Config{State: d.Dir})
		if err == nil {
			err = errors.Join(errors.New("opened"), daemon.Close())
		}
		return err
	}
	if err := os.WriteFile(key, make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(); err == nil || !strings.Contains(err.Error(), "not this store's") {
		t.Errorf("another key: %v", err)
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if err := open(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no key: %v; want ErrNotExist, and no new key", err)
	}
	if _, err := os.Stat(key); err == nil {
		t.Error("a lost key was replaced in silence")
	}
	if err := os.WriteFile(key, original, 0o600); err != nil {
		t.Fatal(err)
	}
	d.Restart()
}

// BenchmarkResolve is a Resolve through a real daemon: cached, over the socket with
// its decision and record, and beside them a bare echo on a unix socket.
func BenchmarkResolve(b *testing.B) {
	d := secretdtest.Start(b)
	set(b, d, "ANTHROPIC_API_KEY", realKey)
	r := grant(b, d, api.Wanted{Name: "ANTHROPIC_API_KEY"})
	req := r.request("ANTHROPIC_API_KEY", "api.anthropic.com")
	b.Run("cached", func(b *testing.B) {
		for b.Loop() {
			if _, err := r.Resolve(b.Context(), req); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("socket", func(b *testing.B) {
		// Another port each time: nothing is cached, every answer is a refusal that
		// was decided and recorded.
		for i := 0; b.Loop(); i++ {
			q := req
			q.Port = uint16(1000 + i%60000)
			if _, err := r.Resolve(b.Context(), q); !errors.Is(err, api.ErrHost) {
				b.Fatal(err)
			}
		}
	})
	b.Run("echo", func(b *testing.B) {
		near, far := socketpair(b)
		defer near.Close()
		go func() {
			defer far.Close()
			_, _ = io.Copy(far, far)
		}()
		p := make([]byte, 100)
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

func socketpair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}
