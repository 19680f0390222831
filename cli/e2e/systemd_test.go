//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/runtime/cgroup"
)

// booted is a systemd with all its namespaces and a root of its own, which is a copy of this machine's.
type booted struct {
	t   *testing.T
	pid int // of systemd, here
}

// boot starts systemd with files in its /srv. It and what it made are gone with the test.
func boot(t *testing.T, files ...string) *booted {
	t.Helper()
	script, err := filepath.Abs("testdata/systemd/boot")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", append([]string{"--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child", script, t.TempDir()}, files...)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	leaf := ownCgroup(t)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(leaf.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("systemd said:\n%s", said.String())
		}
	})
	b := &booted{t: t}
	await(t, "systemd is up", func() bool {
		select {
		case <-ended:
			t.Fatal("systemd ended")
		default:
		}
		b.pid = childOf(cmd.Process.Pid)
		out, _ := b.command("systemctl", "is-system-running").Output()
		return strings.HasPrefix(string(out), "running") || strings.HasPrefix(string(out), "degraded")
	})
	return b
}

// ownCgroup makes a control group in which systemd finds itself at the top of the tree, and removes it, and
// what systemd made below, when the test ends.
func ownCgroup(t *testing.T) *os.File {
	t.Helper()
	h, err := cgroup.Find()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(h.Root, "superserve-systemd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
			t.Error(err)
		}
		await(t, "the control groups are empty", func() bool { return removeGroups(dir) == nil })
	})
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// removeGroups removes a tree of control groups from below.
func removeGroups(dir string) error {
	var all []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			all = append(all, path)
		}
		return err
	})
	for i := len(all) - 1; i >= 0; i-- {
		err = errors.Join(err, os.Remove(all[i]))
	}
	return err
}

func childOf(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	child, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return child
}

// command is one to be run in there, as root.
func (b *booted) command(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--target", strconv.Itoa(b.pid), "--all", "--root", "--wd"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"}
	return cmd
}

// sh runs a script in there and returns what it said, if it went well.
func (b *booted) sh(script string) string {
	b.t.Helper()
	out, err := b.try(script)
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

func (b *booted) try(script string) (string, error) {
	cmd := b.command("timeout", "60", "bash", "-c", "set -e\n"+script)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// step is a subtest.
func (b *booted) step(name string, test func()) {
	before := b.t
	defer func() { b.t = before }()
	before.Run(name, func(t *testing.T) {
		b.t = t
		test()
	})
}

// want runs a script and looks for words in what it says.
func (b *booted) want(script string, words ...string) {
	b.t.Helper()
	out := b.sh(script)
	for _, w := range words {
		if !strings.Contains(out, w) {
			b.t.Errorf("%s said %q; want %q", script, out, w)
		}
	}
}

// TestPackage installs the package on a machine with systemd, where secretd was started on demand before, and
// has root, a member of the group and a stranger use the service.
func TestPackage(t *testing.T) {
	needPrograms(t, "systemctl", "systemd-analyze", "dpkg-deb", "unshare", "nsenter")
	out, err := exec.Command("../../scripts/deb").Output()
	if err != nil {
		t.Fatalf("scripts/deb: %v", err)
	}
	deb, err := filepath.Abs(filepath.Join("../..", strings.TrimSpace(string(out))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(deb) })
	b := boot(t, deb, bin("superserve"), bin("secretd"))

	const real = "sk-ant-api03-REALREALREALREALREALREALREALREALREALREAL"
	b.sh("/srv/superserve secrets set my-agent ANTHROPIC_API_KEY=" + real)
	b.sh("dpkg -i /srv/*.deb")
	b.step("it hands root's secrets over to a user of its own", func() {
		b.want("superserve secrets list my-agent", "ANTHROPIC_API_KEY")
		b.want("ps -C secretd -o user=,args=", "superse", "/usr/bin/secretd --state /var/lib/superserve")
		b.want("stat -c %U:%a /var/lib/superserve/secretd /var/lib/superserve/anchor/secretd", "superserve:700\nsuperserve:600\n")
		b.want("stat -c %U:%G:%a /run/superserve /run/superserve/secretd.sock /run/superserve/resume", "root:superserve:750\nroot:superserve:660\nroot:root:711\n")
		b.want("superserve doctor || true", "✓ modes")
	})
	b.step("it serves the group and nobody else", func() {
		b.sh("useradd -G superserve member && useradd stranger")
		b.want("runuser -u member -- superserve secrets set my-agent OPENAI_API_KEY=sk-proj-REALREALREALREALREALREAL", "OPENAI_API_KEY")
		if out, err := b.try("runuser -u stranger -- superserve secrets list my-agent"); err == nil || !strings.Contains(out, "join the group superserve") {
			b.t.Errorf("a stranger: %v, %q", err, out)
		}
	})
	b.step("it is confined", func() {
		score := b.sh("systemd-analyze security --no-pager superserve-secretd.service | tail -1")
		b.t.Log(strings.TrimSpace(score))
		fields := strings.Fields(score) // → Overall exposure level for UNIT: 0.4 SAFE 😀
		if v, err := strconv.ParseFloat(fields[len(fields)-3], 64); err != nil || v > 1.0 {
			b.t.Errorf("%q; want at most 1.0", score)
		}
		b.sh("systemd-analyze verify --man=no superserve-secretd.service superserve-secretd.socket superserve-secretd-resume.socket")
	})
	b.step("a run has its placeholder, also over a restart and an upgrade of the service", func() {
		b.sh("mkdir -p /tmp/p && cd /tmp/p && printf 'name: my-agent\\ncommand: sh -c \"touch ready; until test -e go; do sleep 0.05; done; env\"\\nsecrets: [ANTHROPIC_API_KEY]\\n' > superserve.yaml")
		running := b.command("superserve", "run", "--workspace", "/tmp/p", "/tmp/p")
		var said bytes.Buffer
		running.Stdout, running.Stderr = &said, &said
		if err := running.Start(); err != nil {
			b.t.Fatal(err)
		}
		await(b.t, "the agent runs", func() bool { _, err := b.try("test -e /tmp/p/ready"); return err == nil })
		b.sh("systemctl kill --signal=KILL superserve-secretd.service && superserve secrets list my-agent")
		b.sh("dpkg -i /srv/*.deb && superserve secrets list my-agent && touch /tmp/p/go")
		if err := running.Wait(); err != nil || !strings.Contains(said.String(), "ANTHROPIC_API_KEY=sk-ant-api03-") || strings.Contains(said.String(), real) {
			b.t.Errorf("%v: %s", err, said.String())
		}
	})
	b.step("it says so where the service does not run", func() {
		b.sh("systemctl stop superserve-secretd.socket superserve-secretd-resume.socket superserve-secretd.service")
		if out, err := b.try("superserve secrets list my-agent"); err == nil || !strings.Contains(out, "systemctl start superserve-secretd.socket") {
			b.t.Errorf("%v, %q", err, out)
		}
	})
	b.step("a removal keeps the secrets, a purge does not", func() {
		b.want("dpkg -r superserve && ls /var/lib/superserve/secretd", "store.db")
		b.sh("dpkg -P superserve && ! test -e /var/lib/superserve && ! getent passwd superserve")
		b.want("systemctl --no-pager --all list-units 'superserve*'", "0 loaded units")
	})
}

// needPrograms skips, and in CI fails, where a program is missing.
func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing", name)
			}
			t.Skipf("%s is missing", name)
		}
	}
}

// await waits for something that another process does.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
