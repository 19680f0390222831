package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// startRuns is how often each start is timed.
const startRuns = 9

// startUp compares `superserve run` of an agent that is /bin/true with gVisor
// alone running /bin/true, both from the same binary.
func (b *bench) startUp(ctx context.Context) {
	const name = "start-up of true"
	if !b.wanted(name) {
		return
	}
	fmt.Fprintln(b.out, name)
	alone, full, err := b.timeStarts(ctx)
	if err != nil {
		fmt.Fprintf(b.out, "  not measured: %v\n\n", err)
		return
	}
	fmt.Fprintf(b.out, "  runsc run: %d ms; superserve run: %d ms\n", alone.Milliseconds(), full.Milliseconds())
	const most = 1.25
	got := float64(full) / float64(alone)
	b.verdict("start-up", fmt.Sprintf("%.2f× runsc's", got), fmt.Sprintf("≤ %.2f×", most), got/most)
	fmt.Fprintln(b.out)
}

// timeStarts returns the median of either, taking turns.
func (b *bench) timeStarts(ctx context.Context) (alone, full time.Duration, err error) {
	bin, err := b.binary()
	if err != nil {
		return 0, 0, err
	}
	runsc, err := b.runscAlone(bin)
	if err != nil {
		return 0, 0, err
	}
	// gVisor keeps an empty network namespace mounted below its --root.
	defer syscall.Unmount(filepath.Join(b.dir, "runsc", "null-netns"), syscall.MNT_DETACH)
	ours, err := b.deploy(ctx, bin, "bench-start", "[\"true\"]")
	if err != nil {
		return 0, 0, err
	}
	var first, second []time.Duration
	for i := range startRuns {
		a, err := timed(runsc(ctx, i))
		if err != nil {
			return 0, 0, err
		}
		f, err := timed(ours(ctx, i))
		if err != nil {
			return 0, 0, err
		}
		first, second = append(first, a), append(second, f)
	}
	slices.Sort(first)
	slices.Sort(second)
	return first[startRuns/2], second[startRuns/2], nil
}

// command makes the command of the i-th start.
type command func(ctx context.Context, i int) *exec.Cmd

func timed(cmd *exec.Cmd) (time.Duration, error) {
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", cmd.Args[0], err, out)
	}
	return time.Since(start), nil
}

// runscAlone makes an OCI bundle of the host's /usr and returns what runs it with
// gVisor's own defaults. The binary is gVisor when it is called runsc.
func (b *bench) runscAlone(bin string) (command, error) {
	dir := filepath.Join(b.dir, "bundle")
	root := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(filepath.Join(root, "usr"), 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{"bin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+name, filepath.Join(root, name)); err != nil {
			return nil, err
		}
	}
	spec, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.0",
		"process":    map[string]any{"user": map[string]int{"uid": 0, "gid": 0}, "args": []string{"/bin/true"}, "cwd": "/", "env": []string{"PATH=/usr/bin"}},
		"root":       map[string]any{"path": root, "readonly": true},
		"mounts":     []map[string]any{{"destination": "/usr", "type": "bind", "source": "/usr", "options": []string{"rbind", "ro"}}},
		"linux":      map[string]any{"namespaces": []map[string]string{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}}},
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), spec, 0o644); err != nil {
		return nil, err
	}
	return func(ctx context.Context, i int) *exec.Cmd {
		cmd := exec.CommandContext(ctx, bin)
		cmd.Args = []string{"runsc", "--root", filepath.Join(b.dir, "runsc"), "--ignore-cgroups", "run", "--bundle", dir, fmt.Sprint("bench-", os.Getpid(), "-", i)}
		return cmd
	}, nil
}
