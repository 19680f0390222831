package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/lease"
)

// times is how often the tests of crashes go round: SECRETD_TIMES, 1 where it is not set.
func times(t *testing.T) int {
	t.Helper()
	text := os.Getenv("SECRETD_TIMES")
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("SECRETD_TIMES is %q", text)
	}
	return n
}

// builds is where failing puts its binary; TestMain makes and removes it.
var builds string

// failing builds secretd with its failpoints, once.
var failing = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(builds, "secretd")
	out, err := exec.Command("go", "build", "-tags", "failpoint", "-o", binary, ".").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return binary, err
})

// victim is a secretd on a state of its own that is killed and started again.
type victim struct {
	t      *testing.T
	binary string
	dir    string
	armed  string // the file that arms the failpoint
	client *client.Client
	cmd    *exec.Cmd
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	binary, err := failing()
	if err != nil {
		t.Fatal(err)
	}
	dir := stateDir(t)
	return &victim{t: t, binary: binary, dir: dir, armed: filepath.Join(dir, "armed"), client: client.New(socketIn(dir))}
}

func (v *victim) command(point string, args ...string) *exec.Cmd {
	cmd := exec.Command(v.binary, append(args, "--state", v.dir)...)
	cmd.Env = []string{"SECRETD_FAILPOINT=" + point, "SECRETD_FAILPOINT_ARMED=" + v.armed}
	return cmd
}

// start starts the daemon that will die at point, once it is armed.
func (v *victim) start(point string) {
	v.t.Helper()
	v.cmd = v.command(point, "--socket", socketIn(v.dir))
	serving(v.t, v.cmd)
}

func (v *victim) arm() {
	v.t.Helper()
	if err := os.WriteFile(v.armed, nil, 0o600); err != nil {
		v.t.Fatal(err)
	}
}

// end makes sure that the daemon is dead, and reports whether the failpoint did it.
func (v *victim) end(acted error) (hit bool) {
	v.t.Helper()
	if acted == nil {
		_ = v.cmd.Process.Kill()
	}
	_ = v.cmd.Wait()
	if err := os.Remove(v.armed); err != nil {
		v.t.Fatal(err)
	}
	status, ok := v.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok || status.Signal() != syscall.SIGKILL {
		v.t.Fatalf("ended by %v; want SIGKILL", v.cmd.ProcessState)
	}
	return acted != nil
}

// vault is what an agent has, as a person can tell: values and hosts by name.
type vault map[string]string

func (v *victim) vault() vault {
	v.t.Helper()
	ctx := v.t.Context()
	list, err := v.client.List(ctx, "my-agent")
	if err != nil {
		v.t.Fatal(err)
	}
	r := api.GrantRequest{Agent: "my-agent", Run: "look"}
	for _, info := range list {
		r.Secrets = append(r.Secrets, api.Wanted{Name: info.Name, Expose: true})
	}
	reply, file, err := v.client.Grant(ctx, r)
	if err != nil {
		v.t.Fatal(err)
	}
	file.Close()
	got := make(vault)
	for _, info := range list {
		got[info.Name] = fmt.Sprintf("%s → %s", reply.Exposed[info.Name], info.Binding.Hosts)
	}
	return got
}

func (v *victim) set(name, value, host string) error {
	p, err := api.ParsePattern(host)
	if err != nil {
		v.t.Fatal(err)
	}
	_, err = v.client.Set(v.t.Context(), "my-agent", []api.Setting{{Name: name, Value: []byte(value), Binding: &api.Binding{Hosts: []api.Pattern{p}}}})
	return err
}

// hold takes a grant of KEY and returns its lease.
func (v *victim) hold() (*lease.Lease, api.Entry, error) {
	reply, file, err := v.client.Grant(v.t.Context(), api.GrantRequest{Agent: "my-agent", Run: "r", Secrets: []api.Wanted{{Name: "KEY"}}})
	if err != nil {
		return nil, api.Entry{}, err
	}
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		v.t.Fatal(err)
	}
	l, err := lease.Open(conn, lease.Options{Lease: -1, Redial: func(ctx context.Context) (net.Conn, error) {
		return v.client.Resume(ctx, reply.Resume)
	}})
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { l.Close() })
	return l, reply.Entries[0], nil
}

func resolve(ctx context.Context, l *lease.Lease, e api.Entry) (string, error) {
	s, err := l.Resolve(ctx, api.ResolveRequest{Placeholder: e.Placeholder, Host: "a.example", Port: 443, Use: api.Use{Kind: api.UseBearer}})
	if err != nil {
		return "", err
	}
	return string(s()), nil
}

// changePoints are the moments of a change by an admin.
func changePoints() []string {
	return []string{"audit written", "store begun", "store changed", "anchor written", "none: after the answer"}
}

// TestKillAtEveryFailpoint kills the daemon at each moment of each change: what was
// acknowledged is there, what was not is wholly old or wholly new, and the store opens.
func TestKillAtEveryFailpoint(t *testing.T) {
	for name, change := range map[string]func(*victim) error{
		"set a new secret": func(v *victim) error { return v.set("OTHER", "value-of-other", "b.example") },
		"rotate a secret":  func(v *victim) error { return v.set("KEY", "other-value", "b.example") },
		"delete a secret": func(v *victim) error {
			_, err := v.client.Delete(v.t.Context(), "my-agent", "KEY", false)
			return err
		},
		"bind a secret": func(v *victim) error {
			return v.client.Bind(v.t.Context(), "my-agent", "KEY", api.Binding{Hosts: []api.Pattern{{Host: "c.example"}}})
		},
	} {
		t.Run("it survives a kill in "+name, func(t *testing.T) {
			t.Parallel()
			v := newVictim(t)
			v.start("")
			v.reset()
			old := v.vault()
			if err := change(v); err != nil {
				t.Fatal(err)
			}
			changed := v.vault()
			for range times(t) {
				for _, point := range changePoints() {
					v.killIn(point, change, old, changed)
				}
			}
		})
	}
}

// killIn has the daemon that runs replaced by one that dies at point in a change, and
// leaves one that runs.
func (v *victim) killIn(point string, change func(*victim) error, old, changed vault) {
	v.t.Helper()
	v.stop()
	v.start(point)
	v.reset()
	v.arm()
	err := change(v)
	if hit := v.end(err); hit == strings.HasPrefix(point, "none") {
		v.t.Fatalf("at %q: hit %v, %v", point, hit, err)
	}
	v.start("")
	got := v.vault()
	isOld, isNew := equal(got, old), equal(got, changed)
	if !isOld && !isNew || err == nil && !isNew {
		v.t.Fatalf("after a kill at %q, acknowledged %v: got %v; old %v, new %v", point, err == nil, got, old, changed)
	}
}

// stop kills the daemon at a moment when it does nothing.
func (v *victim) stop() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
}

// reset makes the state from which each change starts.
func (v *victim) reset() {
	v.t.Helper()
	if _, err := v.client.Delete(v.t.Context(), "my-agent", "OTHER", false); err != nil && !isNotFound(err) {
		v.t.Fatal(err)
	}
	if err := v.set("KEY", "first-value", "a.example"); err != nil {
		v.t.Fatal(err)
	}
}

func isNotFound(err error) bool { return api.Code(err) == api.Code(api.ErrNotFound) }

func equal(a, b vault) bool {
	return slices.Equal(lines(a), lines(b))
}

func lines(v vault) []string {
	var all []string
	for name, value := range v {
		all = append(all, name+"="+value)
	}
	slices.Sort(all)
	return all
}

// TestKillInGrant: a grant that was answered is resumed by the next daemon, and one
// that was not leaves nothing that could be resumed.
func TestKillInGrant(t *testing.T) {
	v := newVictim(t)
	for range times(t) {
		for _, point := range []string{"audit written", "store begun", "store changed", "none: after the answer"} {
			v.start(point)
			v.reset()
			v.arm()
			l, e, err := v.hold()
			v.end(err)
			v.start("")
			if err == nil {
				if got, err := resolve(t.Context(), l, e); err != nil || got != "first-value" {
					t.Fatalf("at %q: resumed to %q, %v", point, got, err)
				}
			}
			v.stop()
		}
	}
}

// TestKillInRevoke: a run that holds the secret gets it after the kill if and only if
// the secret is still there, and never after the revocation was acknowledged.
func TestKillInRevoke(t *testing.T) {
	v := newVictim(t)
	for range times(t) {
		for _, point := range changePoints() {
			v.start(point)
			v.reset()
			l, e, err := v.hold()
			if err != nil {
				t.Fatal(err)
			}
			v.arm()
			_, err = v.client.Delete(t.Context(), "my-agent", "KEY", true)
			v.end(err)
			v.start("")
			_, there := v.vault()["KEY"]
			got, resolved := resolve(t.Context(), l, e)
			if there != (resolved == nil) || there && got != "first-value" || there && err == nil {
				t.Fatalf("at %q, acknowledged %v: secret there %v, resolve %v", point, err == nil, there, resolved)
			}
			l.Close()
			v.stop()
		}
	}
}

// TestKillInRekey: whatever moment it dies at, the next daemon opens the store by the
// key that is there, and leaves one key.
func TestKillInRekey(t *testing.T) {
	v := newVictim(t)
	v.start("")
	v.reset()
	want := v.vault()
	v.stop()
	points := append(changePoints()[:4], "key made", "file written", "file synced", "file renamed", "records sealed again")
	for range times(t) {
		for _, point := range points {
			v.arm()
			v.cmd = v.command(point, "rekey", "--to", "file")
			err := v.cmd.Run()
			if !v.end(err) {
				t.Fatalf("rekey was not killed at %q", point)
			}
			v.start("")
			if got := v.vault(); !equal(got, want) {
				t.Fatalf("after a kill at %q: got %v; want %v", point, got, want)
			}
			v.stop()
			key, err := os.ReadFile(filepath.Join(v.dir, "secretd", "key"))
			if err != nil || len(key) != 32 {
				t.Fatalf("after a kill at %q: %d bytes of keys, %v; want one of 32", point, len(key), err)
			}
			left, _ := filepath.Glob(filepath.Join(v.dir, "secretd", "*.new-*"))
			if len(left) > 0 {
				t.Fatalf("after a kill at %q: %v is left", point, left)
			}
		}
	}
}

// TestKillInTheFirstStart: a start that was interrupted at any moment is finished by the
// next one.
func TestKillInTheFirstStart(t *testing.T) {
	for range times(t) {
		for _, point := range []string{"key made", "file written", "file synced", "file renamed", "store begun", "store changed", "anchor written"} {
			v := newVictim(t)
			v.arm()
			v.cmd = v.command(point, "--socket", socketIn(v.dir))
			if !v.end(v.cmd.Run()) {
				t.Fatalf("not killed at %q", point)
			}
			v.start("")
			if err := v.set("KEY", "first-value", "a.example"); err != nil {
				t.Fatal(err)
			}
			v.stop()
			v.start("")
			if got := v.vault(); len(got) != 1 {
				t.Fatalf("after a kill at %q: %v", point, got)
			}
			v.stop()
		}
	}
}
