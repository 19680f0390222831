//go:build e2e

package e2e

import (
	"context"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestMachineThatLacks runs on a machine that lacks one thing at a time: one line says what, one what to
// do, and nothing has happened.
func TestMachineThatLacks(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	run := func(change func(*exec.Cmd)) result {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := w.command(ctx, "run", agentProject(t, "echo ran"))
		change(cmd)
		return w.finish(cmd, "")
	}
	tests := []struct {
		name   string
		change func(*exec.Cmd)
		stderr string
	}{
		{"root", func(c *exec.Cmd) {
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}, "Error: superserve run needs root\nhint: run it with sudo\n"},
		{"cgroup v2", func(c *exec.Cmd) {
			c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
			script := `awk '$3 == "cgroup2" { print $2 }' /proc/mounts | xargs -r umount -l && exec "$0" "$@"`
			c.Args = append([]string{"sh", "-c", script, c.Path}, c.Args[1:]...)
			c.Path = "/bin/sh"
		}, "Error: no cgroup2 is mounted\nhint: see `superserve doctor`\n"},
		{"kernel of today", func(c *exec.Cmd) {
			c.Args = append([]string{"setarch", "--uname-2.6", c.Path}, c.Args[1:]...) // personality(2), UNAME26
			c.Path = "/usr/bin/setarch"
		}, oldKernel},
	}
	for _, tt := range tests {
		t.Run("it says that there is no "+tt.name, func(t *testing.T) {
			r := run(tt.change)
			if r.code != 1 || r.stdout != "" || r.stderr != tt.stderr {
				t.Errorf("exit %d, stdout %q, stderr %q; want 1 and %q", r.code, r.stdout, r.stderr, tt.stderr)
			}
		})
	}
	if r := w.superserve("", "ps", "--all"); strings.Contains(r.stdout, "plain") {
		t.Errorf("a run was recorded:\n%s", r.stdout)
	}
	w.wantNoAgents(t)
}

// oldKernel is what is said on a kernel that calls itself 2.6.
const oldKernel = "Error: kernel 2.6: not supported by this kernel: superserve needs Linux 6.1 or newer with CONFIG_CGROUP_BPF\nhint: see `superserve doctor`\n"

// wantNoAgents fails if a folder was deployed.
func (w *world) wantNoAgents(t *testing.T) {
	t.Helper()
	if r := w.superserve("", "agents", "list", "--json"); r.code != 0 || strings.TrimSpace(r.stdout) != "[]" {
		t.Errorf("agents list: exit %d, %q, want none\n%s", r.code, r.stdout, r.stderr)
	}
}

// TestFlagsComeBeforeDeeds gives `run DIR` flags that cannot be: one line, and the folder is not deployed.
func TestFlagsComeBeforeDeeds(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	dir := agentProject(t, "echo ran")
	for _, flag := range []string{
		"--memory=lots", "--cpus=0", "--pids=x", "--timeout=soon", "--network=open", "--env=FOO", "--resolve=a:b",
		"--mount=/no-such-folder:/x", "--upstream-ca=/no-such-file", "--rootfs=/no-such-folder", "--workspace=/etc/hosts",
	} {
		t.Run("it refuses "+flag, func(t *testing.T) {
			r := w.superserve("", "run", flag, dir)
			name, _, _ := strings.Cut(flag, "=")
			if r.code != 1 || r.stdout != "" || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, strings.TrimPrefix(name, "--")) {
				t.Errorf("exit %d, stdout %q, stderr %q, want one line that names the flag", r.code, r.stdout, r.stderr)
			}
		})
	}
	w.wantNoAgents(t)
}

// TestDoctor finds nothing missing on the machine that the other tests pass on.
func TestDoctor(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	r := w.superserve("", "doctor")
	if r.code != 0 || strings.Contains(r.stdout, "✗") {
		t.Errorf("exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	for _, name := range []string{"kernel", "root", "cgroup", "bpf", "clone3", "network", "secretd", "modes", "gvisor"} {
		if !strings.Contains(r.stdout, "✓ "+name+" ") {
			t.Errorf("no line %s:\n%s", name, r.stdout)
		}
	}
}
