//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// arena is a world for hostile agents: the probe in sandboxes, on a host's network that is listened to.
type arena struct {
	*world
	host   *hostNet
	dir    string // the agent's folder
	target string // what is run: the folder, or an agent's name
}

// newArena makes an arena whose agent is the probe; yaml is added to its manifest.
func newArena(t testing.TB, yaml string) *arena {
	t.Helper()
	a := &arena{world: newWorld(t), host: newHostNet(t), dir: t.TempDir()}
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(a.dir, "probe"), "./probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if built := os.Getenv("E2E_PROBE"); built != "" { // where there is no Go
		build = exec.Command("cp", built, filepath.Join(a.dir, "probe"))
	}
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, out)
	}
	manifest := "name: probe\ncommand: ./probe\n" + yaml
	if err := os.WriteFile(filepath.Join(a.dir, "superserve.yaml"), []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	a.target = a.dir
	return a
}

// captive is one run of the probe in a sandbox.
type captive struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan string   // of standard output; closed at its end
	stderr *synced       //
	ended  chan struct{} // closed when superserve has ended
}

// start runs the probe and waits for nothing. What superserve leaves behind is the caller's to look for.
func (a *arena) start(t testing.TB, flags []string, args ...string) *captive {
	t.Helper()
	all := append(append([]string{"run"}, flags...), a.target, "--")
	c := &captive{t: t, cmd: a.command(context.Background(), append(all, args...)...), lines: make(chan string, 1<<12), stderr: &synced{}, ended: make(chan struct{})}
	c.cmd.Cancel = nil
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	// Not StdoutPipe: Wait is to return at the end of superserve, whoever else still holds the other end.
	out, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stdout, c.cmd.Stderr, c.stdin = theirs, c.stderr, in
	if err := a.host.start(c.cmd); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	go func() {
		defer close(c.lines)
		defer out.Close()
		for s := bufio.NewScanner(out); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	go func() {
		defer close(c.ended)
		c.cmd.Wait()
	}()
	t.Cleanup(c.stop)
	return c
}

// stop ends the run, if it has not ended.
func (c *captive) stop() {
	c.stdin.Close()
	for _, s := range []os.Signal{os.Interrupt, os.Interrupt, os.Kill} {
		c.cmd.Process.Signal(s)
		select {
		case <-c.ended:
			return
		case <-time.After(patience / 4):
		}
	}
	c.t.Errorf("superserve does not end\nstderr: %s", c.stderr)
	<-c.ended
}

func (c *captive) tell(line string) { fmt.Fprintln(c.stdin, line) }

// next returns the next line of the probe and whether there is one. It fails the test when it waits in vain.
func (c *captive) next() (string, bool) {
	c.t.Helper()
	select {
	case line, ok := <-c.lines:
		return line, ok
	case <-time.After(patience):
		c.t.Fatalf("the probe says nothing\nstderr: %s", c.stderr)
		return "", false
	}
}

// expect wants the next line of the probe to be this one.
func (c *captive) expect(want string) {
	c.t.Helper()
	if got, ok := c.next(); got != want {
		if !ok {
			<-c.ended
		}
		c.t.Fatalf("the probe said %q, want %q (%v)\nstderr: %s", got, want, c.cmd.ProcessState, c.stderr)
	}
}

// rest returns what the probe says up to its end.
func (c *captive) rest() (all []string) {
	c.t.Helper()
	for {
		line, ok := c.next()
		if !ok {
			<-c.ended
			return all
		}
		all = append(all, line)
	}
}

// audited is a line of a run's audit log, as far as these tests read it.
type audited struct {
	Name, Addr, Verdict, Reason string
	Port                        uint16
}

// audit reads the logs of all runs.
func (a *arena) audit(t testing.TB) (all []audited) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(a.state, "audit", "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range logs {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			var e audited
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatalf("audit line %q: %v", line, err)
			}
			all = append(all, e)
		}
	}
	return all
}

// runs are the ids of all runs that were ever started here.
func (a *arena) runs(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(a.state, "runs"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, strings.TrimPrefix(e.Name(), "."))
	}
	return ids
}

// synced is a buffer for concurrent use.
type synced struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *synced) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *synced) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}
