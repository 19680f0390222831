//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// ofGVisor are the descriptors that gVisor's processes may have, as /proc/PID/fd shows them. Sockets are looked at one by
// one. Go's runtime keeps the files of its own limit of processors open.
var ofGVisor = []*regexp.Regexp{
	regexp.MustCompile(`^/dev/null$`),
	regexp.MustCompile(`^pipe:\[`),
	regexp.MustCompile(`^anon_inode:\[?(eventfd|eventpoll|timerfd|pidfd|io_uring|seccomp notify)\]?$`),
	regexp.MustCompile(`^(/sys/fs/cgroup)?(/.*)?/cpu\.(max|cfs_quota_us|cfs_period_us)$`),
	regexp.MustCompile(`^/memfd:[a-z_-]+ \(deleted\)$`),
	regexp.MustCompile(`^/(mnt|media|srv|opt)/bundle/config\.json$`),          // the run's specification, with placeholders
	regexp.MustCompile(`/runs/[a-z0-9]+/runsc-filestore-[0-9]+ \(deleted\)$`), // what the agent writes
	regexp.MustCompile(`^/root(/.*)?$`),                                       // the agent's own files, in gVisor's chroot
	regexp.MustCompile(`^/(proc)?$`),
	regexp.MustCompile(`^(mnt|user|net|pid|ipc|uts|cgroup):\[`),
}

// descriptors lists what a process holds.
func descriptors(t *testing.T, pid int) map[string]string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			all[e.Name()] = to
		}
	}
	return all
}

// sockets are the numbers of a process's sockets.
func sockets(t *testing.T, pid int) (all []string) {
	t.Helper()
	for _, to := range descriptors(t, pid) {
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			all = append(all, strings.TrimSuffix(inode, "]"))
		}
	}
	return all
}

// unixPeers maps each unix socket of a network namespace to the one that it is connected to.
func unixPeers(t *testing.T, ns *os.File) map[string]string {
	t.Helper()
	cmd := exec.Command("ss", "-x", "-a", "-H", "-n")
	if ns != nil {
		cmd = exec.Command("nsenter", "--net=/proc/self/fd/3", "ss", "-x", "-a", "-H", "-n")
		cmd.ExtraFiles = []*os.File{ns}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	peers := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) >= 8 {
			peers[f[5]] = f[7]
		}
	}
	return peers
}

// TestGVisorInheritsNothingElse looks from the host at what sentry and gofer hold while an agent with a key waits: no
// socket to secretd, to the proxy or to the supervisor, no listener of the proxy's, no map of the hooks, no log, and
// nothing that is not on the list.
func TestGVisorInheritsNothingElse(t *testing.T) {
	a := newArena(t, "secrets: [OPENAI_API_KEY]\n")
	a.set("probe", "OPENAI_API_KEY", openaiKey)
	c := a.start(t, nil, "exec", "/bin/sh", "-c", "echo ready; read x")
	c.expect("ready")
	p := a.parts(t)
	ours := map[string]string{}
	for who, pid := range map[string]int{"the supervisor": p.supervisor, "the proxy": p.proxy, "secretd": a.secretd()} {
		for _, s := range sockets(t, pid) {
			ours[s] = who
		}
	}
	if len(ours) < 6 {
		t.Fatalf("the run's own processes have %d sockets", len(ours))
	}
	peers := unixPeers(t, a.host.ns)
	for s, peer := range unixPeers(t, nil) {
		peers[s] = peer
	}
	for who, pid := range map[string]int{"sentry": p.sentry, "gofer": p.gofer} {
		held := descriptors(t, pid)
		if len(held) < 8 {
			t.Errorf("the %s has %d descriptors: the test looks at the wrong process", who, len(held))
		}
		for fd, to := range held {
			inode, socket := strings.CutPrefix(strings.TrimSuffix(to, "]"), "socket:[")
			switch {
			case !socket && !slices.ContainsFunc(ofGVisor, func(r *regexp.Regexp) bool { return r.MatchString(to) }):
				t.Errorf("descriptor %s of the %s is %s", fd, who, to)
			case socket && ours[inode] != "":
				t.Errorf("descriptor %s of the %s is a socket of %s", fd, who, ours[inode])
			case socket && ours[peers[inode]] != "":
				t.Errorf("descriptor %s of the %s is a socket to %s", fd, who, ours[peers[inode]])
			}
		}
	}
	wantUnixOnly(t, p)
}

// wantUnixOnly looks for sockets of the network in gVisor's processes, whose agent has none.
func wantUnixOnly(t *testing.T, p parts) {
	t.Helper()
	for _, pid := range []int{p.sentry, p.gofer} {
		for _, table := range []string{"tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet"} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range sockets(t, pid) {
				if regexp.MustCompile(`\s` + s + `\s`).Match(text) {
					t.Errorf("process %d holds socket %s of %s", pid, s, table)
				}
			}
		}
	}
}

// tellers are the ends of a unix socket in a shared folder: who listens, and who tries to get a descriptor from there.
const (
	listens = `
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind('/workspace/inside')
s.listen()
print('ready', flush=True)
sys.stdin.readline()
`
	connects = `
import errno, os, socket, stat, sys
for name in 'outside', 'inside':
    path, kind = '/workspace/' + name, 'nothing'
    try:
        kind = 'a socket' if stat.S_ISSOCK(os.stat(path).st_mode) else 'something'
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(5)
        s.connect(path)
        print(name, kind, 'connected', len(socket.recv_fds(s, 1, 1)[1]), flush=True)
    except OSError as e:
        print(name, kind, errno.errorcode.get(e.errno, str(e)), flush=True)
print('end', flush=True)
`
)

// TestNoSocketCrossesASharedFolder puts unix sockets into a folder that two runs and the host share. A process of the
// host offers a socket of its network at one (SCM_RIGHTS), which an agent sees and cannot connect to; an agent listens
// at another, which is not there for the next sandbox. So no descriptor comes in, or goes from one to the next.
func TestNoSocketCrossesASharedFolder(t *testing.T) {
	a := newArena(t, "")
	share := t.TempDir()
	if err := os.Chmod(share, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"probe", "superserve.yaml"} {
		if err := exec.Command("cp", filepath.Join(a.dir, name), share).Run(); err != nil {
			t.Fatal(err)
		}
	}
	var came atomic.Int64
	a.host.listen(t, "unix", filepath.Join(share, "outside"), func(c net.Conn) {
		came.Add(1)
		a.passSocket(t, c.(*net.UnixConn))
	})
	if err := os.Chmod(filepath.Join(share, "outside"), 0o777); err != nil {
		t.Fatal(err)
	}
	if got := a.socketFrom(t, filepath.Join(share, "outside")); got != 1 || came.Load() != 1 {
		t.Fatalf("the host itself gets %d sockets there, want 1", got)
	}
	flags := []string{"--workspace", share}
	first := a.start(t, flags, "exec", "/usr/bin/python3", "-c", listens)
	first.expect("ready")
	second := a.start(t, flags, "exec", "/usr/bin/python3", "-c", connects)
	second.expect("outside a socket ECONNREFUSED")
	second.expect("inside nothing ENOENT")
	second.expect("end")
	if n := came.Load(); n != 1 {
		t.Errorf("%d connections arrived at the host, want the host's own only", n)
	}
}

// socketFrom connects to the socket at path, as an agent will try to, and counts the descriptors that come from there.
func (a *arena) socketFrom(t *testing.T, path string) int {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.ReadMsgUnix(make([]byte, 1), control)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d control messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	return len(fds)
}

// passSocket gives a socket of the host's network to whoever is at the other end.
func (a *arena) passSocket(t *testing.T, c *net.UnixConn) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(fd)
	c.WriteMsgUnix([]byte("x"), unix.UnixRights(fd), nil)
}
