//go:build e2e

package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a fault: the agent's connection is cut within cutWithin, and nothing of the sandbox runs after
// endWithin, which has the time for a busy machine.
const (
	cutWithin = time.Second
	endWithin = 10 * time.Second
)

// fault is something that happens to one part of a run.
type fault struct {
	name   string
	inject func(*arena, parts) error
	// goesOn says that the run is to survive it, since nothing of the cage has gone.
	goesOn bool
	// swept says that the supervisor is dead, and the next start cleans up.
	swept bool
	// says is the one line that the user reads, and then the exit code is that of a sandbox that failed.
	says string
}

var faults = []fault{
	{name: "kill of the supervisor", inject: killing(func(p parts) int { return p.supervisor }), swept: true},
	{name: "kill of the proxy", inject: killing(func(p parts) int { return p.proxy }), says: "the proxy ended under the agent"},
	{name: "kill of the sentry", inject: killing(func(p parts) int { return p.sentry }), says: "gVisor's sentry died under the agent: ended by killed"},
	{name: "kill of the gofer", inject: killing(func(p parts) int { return p.gofer }), says: "gVisor's gofer died under the agent"},
	{name: "kill of runsc", inject: killing(func(p parts) int { return p.runsc }), says: "runsc died under the agent: ended by killed"},
	{name: "kill of supervisor and proxy at once", inject: both, swept: true},
	{name: "detached link of TCP over IPv4", inject: detaching("cgroup_inet4_connect")},
	{name: "detached link of TCP over IPv6", inject: detaching("cgroup_inet6_connect")},
	{name: "detached link of UDP", inject: detaching("cgroup_udp4_sendmsg")},
	{name: "detached link of packets", inject: detaching("cgroup_inet_egress")},
	{name: "detached links, all", inject: detaching("")},
	{name: "sentry moved to another cgroup", inject: moving(func(p parts) []int { return []int{p.sentry} })},
	{name: "sandbox moved to another cgroup", inject: moving(func(p parts) []int { return []int{p.runsc, p.gofer, p.sentry} })},
	{name: "kill of secretd", inject: killSecretd, goesOn: true},
	{name: "full map of destinations", inject: fillDestinations, goesOn: true},
}

func killing(who func(parts) int) func(*arena, parts) error {
	return func(_ *arena, p parts) error { return syscall.Kill(who(p), syscall.SIGKILL) }
}

func both(_ *arena, p parts) error {
	return errors.Join(syscall.Kill(p.proxy, syscall.SIGKILL), syscall.Kill(p.supervisor, syscall.SIGKILL))
}

func killSecretd(a *arena, _ parts) error {
	id := a.secretd()
	if id == 0 {
		return errors.New("there is no secretd")
	}
	return syscall.Kill(id, syscall.SIGKILL)
}

// moving takes processes out of the cgroup with the hooks: sockets that they open from now on have none.
func moving(who func(parts) []int) func(*arena, parts) error {
	return func(_ *arena, p parts) error {
		for _, id := range who(p) {
			if err := os.WriteFile(filepath.Join(cgroup2(), "cgroup.procs"), fmt.Append(nil, id), 0); err != nil {
				return err
			}
		}
		return nil
	}
}

// bpftool runs it and decodes what it says.
func bpftool(to any, args ...string) error {
	out, err := exec.Command("bpftool", append([]string{"--json"}, args...)...).Output()
	if err != nil {
		return fmt.Errorf("bpftool %s: %w: %s", strings.Join(args, " "), err, out)
	}
	if to == nil {
		return nil
	}
	return json.Unmarshal(out, to)
}

// hookLink is a bpf_link as bpftool shows it.
type hookLink struct {
	ID     int    `json:"id"`
	Prog   int    `json:"prog_id"`
	Cgroup uint64 `json:"cgroup_id"`
	Attach string `json:"attach_type"`
}

// links lists those of one run's cgroup.
func (p parts) links() ([]hookLink, error) {
	var st unix.Stat_t
	if err := unix.Stat(p.leaf, &st); err != nil {
		return nil, err
	}
	var all []hookLink
	if err := bpftool(&all, "link", "show"); err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(l hookLink) bool { return l.Cgroup != st.Ino })
	if len(all) == 0 {
		return nil, fmt.Errorf("no links at %s", p.leaf)
	}
	return all, nil
}

// detaching takes off the links of one attach type, or all.
func detaching(kind string) func(*arena, parts) error {
	return func(_ *arena, p parts) error {
		all, err := p.links()
		if err != nil {
			return err
		}
		done := 0
		for _, l := range all {
			if kind == "" || l.Attach == kind {
				done++
				if err := bpftool(nil, "link", "detach", "id", fmt.Sprint(l.ID)); err != nil && done == 1 {
					return err // a later one may be gone with the sandbox by now
				}
			}
		}
		if done == 0 {
			return fmt.Errorf("no link of %s among %+v", kind, all)
		}
		return nil
	}
}

// forged is the destination that fillDestinations writes: nobody may ever be led there.
var forged = net.IPv4(203, 0, 113, 66).To4()

// fillDestinations fills the map with destinations of others until it is full and more. The map forgets the
// oldest for the newest, so the agent's own connections may lose theirs, but never get another's.
func fillDestinations(a *arena, p parts) error {
	id, err := p.destinations()
	if err != nil {
		return err
	}
	const entries = 3 * 16384
	var batch bytes.Buffer
	for i := range entries {
		key := append(make([]byte, 8), 0, 0, 0xff, 0xff, 203, 0, 113, 7, byte(i>>8), byte(i), byte(i>>16), 1)
		value := append(make([]byte, 8), 0, 0, 0xff, 0xff)
		value = append(binary.BigEndian.AppendUint16(append(value, forged...), 443), 0, 0)
		fmt.Fprintf(&batch, "map update id %d key %s value %s\n", id, decimal(key), decimal(value))
	}
	cmd := exec.Command("bpftool", "batch", "file", "-")
	cmd.Stdin = &batch
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("bpftool batch: %w: %s", err, out[max(0, len(out)-500):])
	}
	return nil
}

func decimal(b []byte) string {
	return strings.Trim(fmt.Sprint(b), "[]")
}

// destinations is the id of the run's map of them.
func (p parts) destinations() (int, error) {
	all, err := p.links()
	if err != nil {
		return 0, err
	}
	for _, l := range all {
		var prog struct {
			Maps []int `json:"map_ids"`
		}
		if err := bpftool(&prog, "prog", "show", "id", fmt.Sprint(l.Prog)); err != nil {
			return 0, err
		}
		for _, id := range prog.Maps {
			var m struct{ Name string }
			if err := bpftool(&m, "map", "show", "id", fmt.Sprint(id)); err == nil && m.Name == "destinations" {
				return id, nil
			}
		}
	}
	return 0, errors.New("no map of destinations")
}

// faulty is an arena whose agent has a key and holds a stream of the host's through the proxy.
type faulty struct {
	*arena
	capture *capture
	flags   []string
	ends    chan time.Time // when each stream ended, as the host saw it
	busy    atomic.Bool    // the streams flow; else they only stay open
}

const streamHost = "stream.example.net:7000"

func newFaulty(t testing.TB, busy bool) *faulty {
	t.Helper()
	a := newArena(t, "network: {allow: [\""+streamHost+"\"]}\nsecrets: [OPENAI_API_KEY]\n")
	a.set("probe", "OPENAI_API_KEY", openaiKey)
	f := &faulty{arena: a, ends: make(chan time.Time, 64)}
	f.busy.Store(busy)
	port := a.host.listen(t, "tcp", "127.0.0.1:0", f.stream)
	f.flags = []string{"--resolve", fmt.Sprintf("%s:127.0.0.1:%d", streamHost, port)}
	f.capture = listenIn(t, a.host.ns, leaves("hammer"))
	return f
}

// stream sends until the other end is gone, and says when that was.
func (f *faulty) stream(c net.Conn) {
	defer func() { f.ends <- time.Now() }()
	c.Write([]byte("x"))
	if f.busy.Load() {
		go func() {
			part := make([]byte, 4096)
			for _, err := c.Write(part); err == nil; _, err = c.Write(part) {
				time.Sleep(2 * time.Millisecond)
			}
		}()
	}
	io.Copy(io.Discard, c)
}

// timing is what a fault took, from its injection.
type timing struct{ cut, end time.Duration }

// suffer starts a run, waits until it streams, injects the fault and waits for what must follow.
func (f *faulty) suffer(t testing.TB, what fault) (took timing) {
	t.Helper()
	for len(f.ends) > 0 {
		<-f.ends // of a run that was killed while it started
	}
	c := f.start(t, f.flags, "stream", streamHost)
	c.expect("ready")
	p := f.parts(t)
	began := time.Now()
	if err := what.inject(f.arena, p); err != nil {
		t.Fatalf("%s: %v", what.name, err)
	}
	if what.goesOn {
		f.wantAlive(t, c)
		return took
	}
	took.cut = f.untilCut(t, began)
	for _, id := range []int{p.sentry, p.gofer, p.proxy, p.runsc, p.supervisor} {
		if !gone(id, began.Add(endWithin)) {
			t.Errorf("%s: process %d still runs after %v: %s", what.name, id, endWithin, commandLine(id))
		}
	}
	took.end = time.Since(began)
	if t.Failed() {
		c.stop()
	}
	<-c.ended
	if took.cut > cutWithin {
		t.Errorf("%s: the stream was cut after %v, want at most %v", what.name, took.cut, cutWithin)
	}
	code := c.cmd.ProcessState.ExitCode()
	if code == 0 {
		t.Errorf("%s: superserve ended with 0", what.name)
	}
	if want := "Error: " + what.says + "\n"; what.says != "" && (code != 125 || !strings.HasSuffix(c.stderr.String(), want)) {
		t.Errorf("%s: superserve ended with %d, want 125 and %q\nstderr: %s", what.name, code, want, c.stderr)
	}
	if what.swept {
		f.sweep(t)
	}
	return took
}

func (f *faulty) untilCut(t testing.TB, began time.Time) time.Duration {
	t.Helper()
	select {
	case at := <-f.ends:
		return at.Sub(began)
	case <-time.After(endWithin):
		t.Errorf("the stream was not cut for %v", endWithin)
		return endWithin
	}
}

// gone waits until there is no such process, or only its remains.
func gone(id int, until time.Time) bool {
	for time.Now().Before(until) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", id))
		if _, rest, _ := strings.Cut(string(text), ") "); err != nil || strings.HasPrefix(rest, "Z") {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}

// wantAlive wants a run to outlive a fault, and then ends it.
func (f *faulty) wantAlive(t testing.TB, c *captive) {
	t.Helper()
	select {
	case <-f.ends:
		t.Error("the stream was cut")
	case <-c.ended:
		t.Errorf("the run ended\nstderr: %s", c.stderr)
	case <-time.After(cutWithin):
	}
	c.stop()
	f.untilCut(t, time.Now())
}

// sweep starts something else, which cleans up after the dead.
func (f *faulty) sweep(t testing.TB) {
	t.Helper()
	next := f.start(t, f.flags, "exec", "/bin/true")
	next.rest()
	if code := next.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the next start ended with %d\nstderr: %s", code, next.stderr)
	}
}

// wantNoForgery looks for a connection that was led where another's was to go.
func (f *faulty) wantNoForgery(t testing.TB) {
	t.Helper()
	for _, e := range f.audit(t) {
		if e.Addr == forged.String() {
			t.Errorf("the proxy was led to a forged destination: %+v", e)
		}
	}
}

// TestFaults breaks each part of a run, while its stream is idle and while it flows. The agent's connection
// is cut within a second, the sandbox ends, nothing of the agent's hammering leaves the host, and nothing of
// the run is left, after the next start at the latest.
func TestFaults(t *testing.T) {
	for _, busy := range []bool{false, true} {
		f := newFaulty(t, busy)
		for _, what := range faults {
			t.Run(map[bool]string{false: "idle: ", true: "mid-stream: "}[busy]+what.name, func(t *testing.T) {
				took := f.suffer(t, what)
				f.wantNothingLeft(t)
				t.Logf("cut after %v, ended after %v", took.cut, took.end)
			})
		}
		f.wantNoForgery(t)
		f.capture.wantNone(t, "on the host")
	}
}
