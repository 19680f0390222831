package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/lease"
)

// hosts are network namespaces at one switch, by number: host n has the address 10.77.0.n.
type hosts struct {
	t    *testing.T
	name string
}

func newHosts(t *testing.T, n int) *hosts {
	t.Helper()
	needDisks(t, "ip", "etcd") // and root
	h := &hosts{t: t, name: fmt.Sprintf("sd%d", os.Getpid())}
	h.add(0)
	h.ip(0, "link", "add", "br0", "type", "bridge")
	h.ip(0, "link", "set", "br0", "up")
	for i := 1; i <= n; i++ {
		h.add(i)
		h.ip(0, "link", "add", h.port(i), "type", "veth", "peer", "name", "eth0", "netns", h.of(i))
		h.ip(0, "link", "set", h.port(i), "master", "br0", "up")
		h.ip(i, "addr", "add", h.addr(i)+"/24", "dev", "eth0")
		h.ip(i, "link", "set", "eth0", "up")
	}
	return h
}

func (h *hosts) of(i int) string   { return fmt.Sprintf("%sn%d", h.name, i) }
func (h *hosts) port(i int) string { return fmt.Sprintf("p%d", i) }
func (h *hosts) addr(i int) string { return fmt.Sprintf("10.77.0.%d", i) }

func (h *hosts) add(i int) {
	must(h.t, "ip", "netns", "add", h.of(i))
	h.t.Cleanup(func() { must(h.t, "ip", "netns", "delete", h.of(i)) })
	h.ip(i, "link", "set", "lo", "up")
}

func (h *hosts) ip(i int, args ...string) {
	h.t.Helper()
	must(h.t, "ip", append([]string{"-netns", h.of(i)}, args...)...)
}

// on has a command run on a host.
func (h *hosts) on(i int, cmd *exec.Cmd) *exec.Cmd {
	inside := exec.Command("ip", append([]string{"netns", "exec", h.of(i), cmd.Path}, cmd.Args[1:]...)...)
	inside.Env = cmd.Env
	return inside
}

// member starts Debian's etcd as member i of n.
func (h *hosts) member(i, n int) *exec.Cmd {
	h.t.Helper()
	var all []string
	for j := 1; j <= n; j++ {
		all = append(all, fmt.Sprintf("m%d=http://%s:2380", j, h.addr(j)))
	}
	clients, peers := "http://"+h.addr(i)+":2379", "http://"+h.addr(i)+":2380"
	cmd := h.on(i, exec.Command("etcd", "--name", fmt.Sprintf("m%d", i), "--data-dir", h.t.TempDir(),
		"--listen-client-urls", clients, "--advertise-client-urls", clients, "--listen-peer-urls", peers,
		"--initial-advertise-peer-urls", peers, "--initial-cluster", strings.Join(all, ",")))
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if h.t.Failed() {
			h.t.Logf("member %d said:\n%s", i, lastOf(said.String()))
		}
	})
	return cmd
}

func lastOf(s string) string { return s[max(0, len(s)-2000):] }

// site is a secretd on a host.
type site struct {
	*client.Client
	cmd  *exec.Cmd
	dir  string
	args []string
}

func (h *hosts) secretd(i int, dir, store string) *site {
	h.t.Helper()
	s := &site{dir: dir, args: []string{"--state", dir, "--socket", socketIn(dir), "--store", store}, Client: client.New(socketIn(dir))}
	s.cmd = h.on(i, command(h.t, s.args...))
	serving(h.t, s.cmd)
	return s
}

// TestTwoHosts has two hosts share their secrets through three members of etcd, of which
// one is killed and another cut off while they write.
func TestTwoHosts(t *testing.T) {
	h := newHosts(t, 5)
	members := []*exec.Cmd{h.member(1, 3), h.member(2, 3), h.member(3, 3)}
	store := fmt.Sprintf("etcd+http://%s:2379,%s:2379,%s:2379/superserve", h.addr(1), h.addr(2), h.addr(3))
	a := h.secretd(4, stateDir(t), store)
	other := stateDir(t)
	copyKey(t, a.dir, other)
	b := h.secretd(5, other, store)

	set := func(value string) error {
		_, err := a.Set(t.Context(), "my-agent", []api.Setting{{Name: "ANTHROPIC_API_KEY", Value: []byte(value)}})
		return err
	}
	if err := set(realKey); err != nil {
		t.Fatal(err)
	}
	run := b.runs(t, "ANTHROPIC_API_KEY")
	if got, err := run.resolve(t); err != nil || got != realKey {
		t.Fatalf("set on one, used on the other: %q, %v", got, err)
	}
	t.Run("a rotation reaches a run on the other host", func(t *testing.T) {
		if err := set("sk-ant-api03-the-next-value"); err != nil {
			t.Fatal(err)
		}
		within(t, "rotation", func() bool { got, err := run.resolve(t); return err == nil && got == "sk-ant-api03-the-next-value" })
	})
	t.Run("a deletion does too", func(t *testing.T) {
		if _, err := a.Delete(t.Context(), "my-agent", "ANTHROPIC_API_KEY", false); err != nil {
			t.Fatal(err)
		}
		within(t, "revocation", func() bool { _, err := run.resolve(t); return errors.Is(err, api.ErrRevoked) })
	})
	t.Run("they share agents", func(t *testing.T) { shareAgents(t, a, b) })
	t.Run("members that are lost lose no write and no read", func(t *testing.T) { loseMembers(t, h, members, a, b) })
	t.Run("another key ends the daemons that have the old one", func(t *testing.T) {
		_ = a.cmd.Process.Kill()
		_ = a.cmd.Wait()
		to := filepath.Join(stateDir(t), "key")
		out, err := h.on(4, command(t, append([]string{"rekey", "--to", "file:" + to, "--key", "file"}, withoutSocket(a.args)...)...)).CombinedOutput()
		if err != nil {
			t.Fatalf("rekey: %v: %s", err, out)
		}
		if err := b.cmd.Wait(); err == nil {
			t.Error("the other daemon ended well")
		}
	})
}

func withoutSocket(args []string) []string { return append(args[:2:2], args[4:]...) }

// copyKey gives the second host the key of the first, as an operator does.
func copyKey(t *testing.T, from, to string) {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(from, "secretd", "key"))
	if err == nil {
		err = os.Mkdir(filepath.Join(to, "secretd"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(to, "secretd", "key"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// held is a run with one secret, whose proxy keeps nothing for itself.
type held struct {
	*lease.Lease
	placeholder string
}

func (s *site) runs(t *testing.T, name string) *held {
	t.Helper()
	return s.granted(t, api.GrantRequest{Agent: "my-agent", Run: "r", Secrets: []api.Wanted{{Name: name}}})
}

func (s *site) granted(t *testing.T, r api.GrantRequest) *held {
	t.Helper()
	reply, file, err := s.Grant(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	l, err := lease.Open(conn, lease.Options{Lease: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &held{l, reply.Entries[0].Placeholder}
}

func (h *held) resolve(t *testing.T) (string, error) {
	t.Helper()
	s, err := h.Resolve(context.Background(), api.ResolveRequest{Placeholder: h.placeholder, Host: "api.anthropic.com", Port: 443, Use: api.Use{Kind: api.UseBearer}})
	if err != nil {
		return "", err
	}
	return string(s()), nil
}

// within waits, for a minute at most, and says how long it took.
func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	began := time.Now()
	for !done() {
		if time.Since(began) > time.Minute {
			t.Fatalf("no %s within a minute", what)
		}
		time.Sleep(time.Millisecond)
	}
	t.Logf("%s took %v", what, time.Since(began).Round(time.Millisecond))
}

// loseMembers kills a member and cuts another off while a secret is set again and again.
func loseMembers(t *testing.T, h *hosts, members []*exec.Cmd, a, b *site) {
	var begun, acknowledged, successes atomic.Uint64 // acknowledged is the last one's number
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			n := begun.Add(1)
			_, err := a.Set(context.Background(), "my-agent", []api.Setting{{Name: "ANTHROPIC_API_KEY", Value: fmt.Appendf(nil, "value number %d", n)}})
			if err == nil {
				acknowledged.Store(n)
				successes.Add(1)
			}
		}
	}()
	more := func() func() bool {
		from := acknowledged.Load()
		return func() bool { return acknowledged.Load() >= from+10 }
	}
	within(t, "writing", more())
	_ = members[0].Process.Kill()
	_ = members[0].Wait()
	within(t, "writing without one member", more())
	h.ip(0, "link", "set", h.port(2), "down")
	last := acknowledged.Load()
	run := b.runs(t, "ANTHROPIC_API_KEY")
	for range 5 {
		if got, err := run.resolve(t); err != nil || !strings.HasPrefix(got, "value number ") {
			t.Fatalf("a read with one member of three: %q, %v", got, err)
		}
	}
	if now := acknowledged.Load(); now > last+1 { // one was under way
		t.Fatalf("changes up to %d were acknowledged by one member of three", now)
	}
	h.ip(0, "link", "set", h.port(2), "up")
	within(t, "writing after the cut", more())
	close(stop)
	<-stopped
	if v := b.version(t, "ANTHROPIC_API_KEY"); v < successes.Load() || v > begun.Load() {
		t.Errorf("version %d; %d changes were begun, %d acknowledged", v, begun.Load(), successes.Load())
	}
	got, err := run.resolve(t)
	var n uint64
	if _, scan := fmt.Sscanf(got, "value number %d", &n); err != nil || scan != nil || n < acknowledged.Load() {
		t.Errorf("the value is %q, %v; change %d was acknowledged", got, err, acknowledged.Load())
	}
	t.Logf("%d changes begun, the last acknowledged is %d, and %d is there", begun.Load(), acknowledged.Load(), n)
}

func (s *site) version(t *testing.T, name string) uint64 {
	t.Helper()
	infos, err := s.List(t.Context(), "my-agent")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if i.Name == name {
			return i.Version
		}
	}
	t.Fatalf("%s is not there", name)
	return 0
}
