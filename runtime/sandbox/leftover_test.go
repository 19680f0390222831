package sandbox_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/runtime/runsc/runsctest"
	"github.com/superserve/superserve/runtime/sandbox"
)

// supervisorEnv makes the test binary a supervisor that a test can kill: its value is the state directory.
const supervisorEnv = "SANDBOX_TEST_SUPERVISOR"

func TestMain(m *testing.M) {
	if state := os.Getenv(supervisorEnv); state != "" {
		_, err := sandbox.Run(context.Background(), sandbox.Config{
			Binary: os.Getenv(runsctest.Env), State: state, Logs: true,
			Command: []string{"/bin/sh", "-c", "sleep 1000 & echo ready; exec cat"},
			Stdin:   os.Stdin, Stdout: os.Stdout,
			Limits: cgroup.Limits{Memory: 1 << 30, CPU: 1.5, Pids: 500},
		})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		flag.Parse()
		flag.Set("test.skip", "^Example") // needs root, and an example cannot say so
	}
	runsctest.Main(m)
}

// inventory is what a sandbox could leave behind on the host and in this process: mounts and open files.
func inventory(t *testing.T) []string {
	t.Helper()
	var all []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range strings.Split(string(mounts), "\n") {
		if strings.Contains(m, "tmpfs superserve ") || strings.Contains(m, "/runs/") { // of the bundle; of gVisor
			all = append(all, m)
		}
	}
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		to, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && !strings.Contains(to, "/proc/") && !strings.HasPrefix(to, "anon_inode:[event") {
			all = append(all, "fd "+to)
		}
	}
	sort.Strings(all)
	return all
}

// groups are the control groups of a run, its proxy's too.
func groups(t *testing.T, id string) []string {
	t.Helper()
	h, err := cgroup.Find()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, dir := range append(slices.Collect(maps.Values(h.V1)), h.Root) {
		found, _ := filepath.Glob(filepath.Join(dir, "superserve", id+"*"))
		out = append(out, found...)
	}
	return out
}

// sandboxed are the processes that carry the marks of one state directory or of a run's ids.
func sandboxed(state string) []string {
	var out []string
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range paths {
		line, _ := os.ReadFile(p)
		if text := string(line); strings.Contains(text, state) {
			out = append(out, p+" "+strings.ReplaceAll(text, "\x00", " "))
		}
	}
	return out
}

func TestNothingIsLeft(t *testing.T) {
	run(t, config(t, "true")) // what the Go runtime keeps for good is there now
	before := inventory(t)
	ignore := goleak.IgnoreCurrent()
	for name, line := range map[string]string{
		"after an exit":                     "exit 3",
		"after an exit beside processes":    "sleep 1000 & setsid sleep 1000 & exit 0",
		"after a command that is not there": "",
	} {
		t.Run("nothing is left "+name, func(t *testing.T) {
			cfg := config(t, line)
			cfg.Limits = cgroup.Limits{Memory: 1 << 30, CPU: 1.5, Pids: 500}
			var id string
			cfg.Secrets = func(_ context.Context, run string) (sandbox.Granted, error) {
				id = run
				return sandbox.Granted{}, nil
			}
			if line == "" {
				cfg.Command = []string{"no-such"}
			}
			run(t, cfg)
			if left := sandboxed(cfg.State); len(left) > 0 {
				t.Errorf("processes: %q", left)
			}
			if left := groups(t, id); id == "" || len(left) > 0 {
				t.Errorf("control groups of %q: %q", id, left)
			}
			if dirs, _ := os.ReadDir(filepath.Join(cfg.State, "runs")); len(dirs) != 0 {
				t.Errorf("run directories: %v", dirs)
			}
		})
	}
	t.Run("nothing is left after a start that fails", func(t *testing.T) {
		cfg := config(t, "true")
		cfg.Network.Mode = "no such mode" // the proxy refuses it, late in the start
		if s, err := sandbox.Start(t.Context(), cfg); err == nil {
			s.Close()
			t.Error("it started")
		}
		if left := sandboxed(cfg.State); len(left) > 0 {
			t.Errorf("processes: %q", left)
		}
	})
	if diff := cmp.Diff(before, inventory(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
	goleak.VerifyNone(t, ignore)
}

func TestSweep(t *testing.T) {
	runsctest.Root(t)
	before := inventory(t)
	state := t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), supervisorEnv+"="+state, runsctest.Env+"="+runsctest.Binary(t))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	recs, err := sandbox.List(state)
	if err != nil || len(recs) != 1 || !recs[0].Running {
		t.Fatalf("got %+v, %v", recs, err)
	}
	if err := sandbox.Sweep(state); err != nil { // must not touch what lives
		t.Fatal(err)
	}
	if recs, _ := sandbox.List(state); len(recs) != 1 || !recs[0].Running {
		t.Fatalf("after a sweep beside it: got %+v", recs)
	}
	if len(groups(t, recs[0].ID)) == 0 {
		t.Error("it has no control group")
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := sandbox.Sweep(state); err != nil {
		t.Fatal(err)
	}
	// gVisor's processes and the proxy die by the kernel's hand, which takes a moment.
	for deadline := time.Now().Add(time.Minute); len(sandboxed(state)) > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("processes: %q", sandboxed(state))
		}
	}
	if left := groups(t, recs[0].ID); len(left) > 0 {
		t.Errorf("control groups: %q", left)
	}
	if r := verified(t, state); !r.Ended {
		t.Errorf("the audit log has no end: %+v", r)
	}
	recs, err = sandbox.List(state)
	if err != nil || len(recs) != 1 || recs[0].Running || recs[0].Result == nil || recs[0].Result.Reason != sandbox.ReasonLost {
		t.Errorf("got %+v, %v", recs, err)
	}
	want := []string{"lock", "notices.jsonl", "run.json", "stderr.log", "stdout.log"}
	var kept []string
	entries, _ := os.ReadDir(sandbox.RunDir(state, recs[0].ID))
	for _, e := range entries {
		kept = append(kept, e.Name())
	}
	if diff := cmp.Diff(want, kept); diff != "" {
		t.Errorf("in the run's directory (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, inventory(t)); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}

// exampleBinary is the binary for the example, which has no testing.TB.
func exampleBinary() string {
	path, err := runsctest.Build()
	if err != nil {
		panic(err)
	}
	return path
}
