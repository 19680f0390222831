package sandbox_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/runtime/sandbox"
)

// TestProxyIsLimited: the proxy of a run with limits has limits of its own, in a group without the agent and its hooks.
func TestProxyIsLimited(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits cgroup.Limits
		want   string // processors and bytes, 0 for no limit
	}{
		{"as many processors as the agent", cgroup.Limits{CPU: 0.5, Memory: 200 << 20}, "0.5 536870912"},
		{"enough of a processor to be there in time", cgroup.Limits{CPU: 0.1, Memory: 200 << 20}, "0.25 536870912"},
		{"no limit that nobody asked for", cgroup.Limits{Pids: 100}, "0 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config(t, "echo ready; exec cat")
			cfg.Limits = c.limits
			var id string
			cfg.Secrets = func(_ context.Context, run string) (sandbox.Granted, error) {
				id = run
				return sandbox.Granted{}, nil
			}
			in, w, _ := os.Pipe()
			defer in.Close()
			ready := make(chan struct{}, 1)
			cfg.Stdin, cfg.Stdout = in, writerFunc(func([]byte) { ready <- struct{}{} })
			s, err := sandbox.Start(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			<-ready
			proxy := strconv.Itoa(children(t, os.Getpid(), "superserve\x00proxy")[0])
			if got := limitsOf(t, proxy, id); got != c.want {
				t.Errorf("the proxy has %q, want %q", got, c.want)
			}
			w.Close()
			if res, err := s.Wait(t.Context()); err != nil || res.Code != 0 {
				t.Errorf("got %+v, %v", res, err)
			}
			s.Close()
			if left := groups(t, id); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// limitsOf reads the limits of the proxy's group from whichever version of cgroups has them; 0 is none.
func limitsOf(t *testing.T, proxy, id string) string {
	t.Helper()
	h, err := cgroup.Find()
	if err != nil {
		t.Fatal(err)
	}
	group := filepath.Join("superserve", id+"-proxy")
	members, err := os.ReadFile(filepath.Join(h.Root, group, "cgroup.procs"))
	if err != nil || !slices.Contains(strings.Fields(string(members)), proxy) {
		t.Errorf("the proxy %s is not in its group, which has %q, %v", proxy, members, err)
	}
	read := func(v2, controller, v1 string) (n float64) {
		text, err := os.ReadFile(filepath.Join(h.Root, group, v2))
		if err != nil {
			text, _ = os.ReadFile(filepath.Join(h.V1[controller], group, v1)) // none: no limit
		}
		fmt.Sscan(string(text), &n) // "max": no limit
		return max(n, 0)            // -1: no limit
	}
	cpu := read("cpu.max", "cpu", "cpu.cfs_quota_us") / 100_000
	return fmt.Sprint(cpu, " ", int64(read("memory.max", "memory", "memory.limit_in_bytes")))
}

// TestRunAtItsLimitYields: the agent and its proxy yield to other runs while the agent wants more than it may have.
func TestRunAtItsLimitYields(t *testing.T) {
	cfg := config(t, "while :; do :; done")
	cfg.Limits = cgroup.Limits{CPU: 0.5}
	var id string
	cfg.Secrets = func(_ context.Context, run string) (sandbox.Granted, error) {
		id = run
		return sandbox.Granted{}, nil
	}
	s, err := sandbox.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h, err := cgroup.Find()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.After(time.Minute)
	for _, name := range []string{id, id + "-proxy"} {
		for !yields(t, h, name) {
			select {
			case <-time.After(50 * time.Millisecond):
			case <-deadline:
				t.Fatalf("%s does not yield", name)
			}
		}
	}
}

func yields(t *testing.T, h cgroup.Hierarchy, name string) bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(h.Root, "superserve", name, "cpu.idle"))
	if err != nil {
		text, err = os.ReadFile(filepath.Join(h.V1["cpu"], "superserve", name, "cpu.idle"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text)) == "1"
}
