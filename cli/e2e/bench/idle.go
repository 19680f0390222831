package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// idleRun prints the memory of each process of a run whose agent sleeps. The proxy
// here is the real one, inside the superserve binary.
func (b *bench) idleRun(ctx context.Context) {
	const name = "memory of an idle run"
	if !b.wanted(name) {
		return
	}
	fmt.Fprintln(b.out, name)
	if err := b.measureRun(ctx); err != nil {
		fmt.Fprintf(b.out, "  not measured: %v\n", err)
	}
	fmt.Fprintln(b.out)
}

func (b *bench) measureRun(ctx context.Context) error {
	bin, err := b.binary()
	if err != nil {
		return err
	}
	run, err := b.deploy(ctx, bin, "bench-idle", `[sh, -c, "echo up; sleep 2"]`)
	if err != nil {
		return err
	}
	cmd := run(ctx, 0)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	c := &child{cmd: cmd}
	if err := cmd.Start(); err != nil {
		return err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "up\n" {
		return errors.Join(fmt.Errorf("the agent said %q: %w", line, err), cmd.Wait())
	}
	time.Sleep(time.Second) // the agent sleeps two
	err = b.printFamily(c)
	return errors.Join(err, cmd.Wait())
}

// printFamily prints the memory of a process and all below it.
func (b *bench) printFamily(top *child) error {
	pids := []int{top.cmd.Process.Pid}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, childrenOf(pids[i])...)
	}
	for _, pid := range pids {
		n, err := memoryOf(pid, "VmRSS:")
		if err != nil {
			return err
		}
		file, err := memoryOf(pid, "RssFile:")
		if err != nil {
			return err
		}
		part := partOf(pid)
		fmt.Fprintf(b.out, "  %s: %.1f MiB, of which %.1f MiB are pages of files that others share\n", part, mib(n), mib(file))
		if part == "superserve proxy" {
			const most = 25 << 20
			b.verdict("RSS of the proxy of a run", fmt.Sprintf("%.1f MiB", mib(n)), "≤ 25 MiB", float64(n)/most)
		}
	}
	return nil
}

// childrenOf reads the children of every thread (proc_tid_children(5)).
func childrenOf(pid int) []int {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	var all []int
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for word := range strings.FieldsSeq(string(text)) {
			if n, err := strconv.Atoi(word); err == nil {
				all = append(all, n)
			}
		}
	}
	return all
}

// partOf names a process by its program and first argument.
func partOf(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return strconv.Itoa(pid)
	}
	args := strings.Split(string(text), "\x00")
	name := filepath.Base(args[0])
	if name == "." {
		return "gVisor's stub" // its argv is empty
	}
	if name == "superserve" && len(args) > 1 {
		for _, arg := range args[1:] {
			if arg == "run" || arg == "proxy" {
				return name + " " + arg
			}
		}
	}
	return name
}

// binary returns the superserve to measure, or why it cannot be.
func (b *bench) binary() (string, error) {
	bin, err := filepath.Abs(b.bin)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(bin); err != nil {
		return "", fmt.Errorf("build superserve first: %w", err)
	}
	if os.Geteuid() != 0 {
		return "", errors.New("needs root")
	}
	return bin, nil
}

// deploy deploys an agent of one command and returns what runs it.
func (b *bench) deploy(ctx context.Context, bin, name, argv string) (command, error) {
	dir := filepath.Join(b.dir, name)
	state := filepath.Join(b.dir, "state")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "superserve.yaml"), []byte("name: "+name+"\ncommand: "+argv+"\n"), 0o644); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, bin, "--state", state, "deploy", dir, "-y").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("superserve deploy: %w: %s", err, out)
	}
	return func(ctx context.Context, _ int) *exec.Cmd {
		return exec.CommandContext(ctx, bin, "--state", state, "run", "-q", name)
	}, nil
}
