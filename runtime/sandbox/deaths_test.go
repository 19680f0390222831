package sandbox_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/superserve/superserve/runtime/sandbox"
)

// processOf finds a process of gVisor's by the first word of its command line and the run's state directory, which
// stands in its flags.
func processOf(t *testing.T, name, state string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, _ := os.ReadFile(file) // it may be gone by now
		if first, _, _ := strings.Cut(string(text), "\x00"); first == name && bytes.Contains(text, []byte(state)) {
			var pid int
			fmt.Sscanf(file, "/proc/%d/", &pid)
			return pid
		}
	}
	t.Fatalf("no %s of %s runs", name, state)
	return 0
}

// startWaiting starts an agent that waits for its standard input, and returns when it does.
func startWaiting(t *testing.T, cfg sandbox.Config) *sandbox.Sandbox {
	t.Helper()
	in, hold := io.Pipe()
	t.Cleanup(func() { hold.Close() })
	said, out := io.Pipe()
	cfg.Stdin, cfg.Stdout = in, out
	s, err := sandbox.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if _, err := io.ReadFull(said, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, said)
	return s
}

// Each process of gVisor's that is killed from outside ends the run with 125 and a sentence that names it.
func TestKilledGVisorIsNamed(t *testing.T) {
	for _, tt := range []struct{ process, want string }{
		{"runsc-sandbox", "gVisor's sentry died under the agent: ended by killed"},
		{"runsc-gofer", "gVisor's gofer died under the agent"},
		{"runsc", "runsc died under the agent: ended by killed"},
	} {
		t.Run("it names "+tt.process, func(t *testing.T) {
			cfg := config(t, "echo ready; read x")
			s := startWaiting(t, cfg)
			if err := syscall.Kill(processOf(t, tt.process, cfg.State), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			r, err := s.Wait(context.Background())
			if r.Code != 125 || r.Reason != sandbox.ReasonSandbox || r.Detail != tt.want || err == nil {
				t.Errorf("got %+v, %v, want 125 and %q", r, err, tt.want)
			}
		})
	}
}

// An agent that is killed inside, by itself or by another process, is no failure of the sandbox.
func TestAgentKilledInside(t *testing.T) {
	for range 3 {
		if out, r := run(t, config(t, "kill -KILL $$")); r != (sandbox.Result{Code: 137, Reason: sandbox.ReasonExit}) {
			t.Errorf("got %+v, %q, want 137 and no more", r, out)
		}
	}
}
