package cli

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/quick"
)

// confinedEnv makes a test binary the confined process of this file. Its value is a directory that the process
// could use before.
const confinedEnv = "SUPERSERVE_TEST_CONFINED"

// attempt is something that a confined process must not be able to do.
type attempt struct {
	name string
	try  func(dir string) error
	want []error
}

var notAllowed = []error{unix.EPERM, unix.EACCES}

func sys(trap, a1, a2, a3 uintptr) error {
	if _, _, errno := unix.RawSyscall(trap, a1, a2, a3); errno != 0 {
		return errno
	}
	return nil
}

var attempts = []attempt{
	{"read a file of the host", func(string) error { _, err := os.ReadFile("/etc/passwd"); return err }, notAllowed},
	{"read a file of its own", func(dir string) error { _, err := os.ReadFile(filepath.Join(dir, "file")); return err }, notAllowed},
	{"read /proc", func(string) error { _, err := os.ReadFile("/proc/self/environ"); return err }, notAllowed},
	{"list a directory", func(dir string) error { _, err := os.ReadDir(dir); return err }, notAllowed},
	{"write a file", func(dir string) error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o600) }, notAllowed},
	{"write what it may read", func(string) error { _, err := os.OpenFile("/etc/hosts", os.O_WRONLY, 0); return err }, notAllowed},
	{"remove a file", func(dir string) error { return os.Remove(filepath.Join(dir, "file")) }, notAllowed},
	{"rename a file", func(dir string) error { return os.Rename(filepath.Join(dir, "file"), filepath.Join(dir, "other")) }, notAllowed},
	{"make a directory", func(dir string) error { return os.Mkdir(filepath.Join(dir, "dir"), 0o700) }, notAllowed},
	{"change a mode", func(dir string) error { return os.Chmod(filepath.Join(dir, "file"), 0o777) }, notAllowed},
	{"make a memory file", func(string) error { _, err := unix.MemfdCreate("x", 0); return err }, notAllowed},
	{"start a program", func(string) error { return exec.Command("/bin/true").Run() }, notAllowed},
	{"execute in place", func(string) error { return unix.Exec("/bin/true", []string{"true"}, nil) }, notAllowed},
	{"fork", func(string) error { return sys(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0) }, notAllowed},
	{"use clone3", func(string) error { return sys(unix.SYS_CLONE3, 0, 0, 0) }, notAllowed},
	{"trace a process", func(string) error { return unix.PtraceAttach(1) }, notAllowed},
	{"read another's memory", func(string) error { return sys(unix.SYS_PROCESS_VM_READV, 1, 0, 0) }, notAllowed},
	{"mount", func(dir string) error { return unix.Mount("none", dir, "tmpfs", 0, "") }, notAllowed},
	{"make a namespace", func(string) error { return unix.Unshare(unix.CLONE_NEWUSER) }, notAllowed},
	{"enter a namespace", func(string) error { return unix.Setns(0, 0) }, notAllowed},
	{"change its root", func(dir string) error { return unix.Chroot(dir) }, notAllowed},
	{"load a module", func(string) error { return sys(unix.SYS_FINIT_MODULE, 0, 0, 0) }, notAllowed},
	{"use io_uring", func(string) error { return sys(unix.SYS_IO_URING_SETUP, 1, 0, 0) }, notAllowed},
	{"use keyrings", func(string) error { return sys(unix.SYS_KEYCTL, 0, 0, 0) }, notAllowed},
	{"use perf", func(string) error { return sys(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0) }, notAllowed},
	{"use userfaultfd", func(string) error { return sys(unix.SYS_USERFAULTFD, 0, 0, 0) }, notAllowed},
	{"make a BPF map", func(string) error { return sys(unix.SYS_BPF, unix.BPF_MAP_CREATE, 0, 0) }, notAllowed},
	{"load a BPF program", func(string) error { return sys(unix.SYS_BPF, unix.BPF_PROG_LOAD, 0, 0) }, notAllowed},
	{"update a BPF map", func(string) error { return sys(unix.SYS_BPF, unix.BPF_MAP_UPDATE_ELEM, 0, 0) }, notAllowed},
	{"map code", func(string) error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		return err
	}, notAllowed},
	{"make memory executable", func(string) error {
		m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		return errors.Join(err, unix.Mprotect(m, unix.PROT_READ|unix.PROT_EXEC))
	}, notAllowed},
	{"open a packet socket", func(string) error { _, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); return err }, notAllowed},
	{"open a vsock socket", func(string) error { _, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0); return err }, notAllowed},
	{"open a raw socket", func(string) error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, 1); return err }, notAllowed},
	{"listen on another port", func(string) error { _, err := net.Listen("tcp", "127.0.0.1:0"); return err }, notAllowed},
	{"signal its parent", func(string) error { return unix.Kill(os.Getppid(), 0) }, notAllowed},
	{"become root", func(string) error { return sys(unix.SYS_SETRESUID, 0, 0, 0) }, notAllowed},
	{"be dumped again", func(string) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) }, notAllowed},
	{"raise a limit", func(string) error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}) }, notAllowed},
	{"use the x32 ABI", func(string) error { return sys(0x40000000|unix.SYS_GETPID, 0, 0, 0) }, notAllowed},
}

// TestConfinedProcess is the confined process itself; it is skipped in an ordinary run because it is none.
func TestConfinedProcess(t *testing.T) {
	dir := os.Getenv(confinedEnv)
	if dir == "" {
		return
	}
	ready := prepareWork()
	threads()
	if err := confine(func(text string) { fmt.Println("warn", text) }); err != nil {
		fmt.Println("confine", err)
		os.Exit(1)
	}
	for _, a := range attempts {
		err := a.try(dir)
		if slices.ContainsFunc(a.want, func(want error) bool { return errors.Is(err, want) }) {
			err = nil
		} else {
			err = fmt.Errorf("not refused: %w", cmpErr(err))
		}
		fmt.Printf("attempt\t%s\t%v\n", a.name, err)
	}
	for _, w := range work {
		fmt.Printf("work\t%s\t%v\n", w.name, w.do(ready))
	}
	fmt.Println("done")
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func cmpErr(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

// threads makes sure that there are several, so that a step that reaches one only is seen.
func threads() {
	var wg sync.WaitGroup
	hold := make(chan struct{})
	for range 4 {
		up := make(chan struct{})
		wg.Go(func() { runtime.LockOSThread(); close(up); <-hold; runtime.UnlockOSThread() })
		<-up
	}
	close(hold)
	wg.Wait()
}

// prepared is what a confined process works with: opened before, as the proxy's descriptors are.
type prepared struct {
	listener  net.Listener
	authority *ca.Authority
	bpfMap    int // -1 without the right to make one
}

func prepareWork() prepared {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	authority, err := ca.New()
	if err != nil {
		panic(err)
	}
	// struct bpf_attr: map_type array, key_size, value_size, max_entries.
	attr := [64]uint32{2, 4, 4, 1}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return prepared{l, authority, -1}
	}
	return prepared{l, authority, int(fd)}
}

// work is what must go on.
var work = []struct {
	name string
	do   func(prepared) error
}{
	{"read the resolver's files", func(prepared) error {
		_, err := os.ReadFile("/etc/hosts")
		return err
	}},
	{"resolve a name of /etc/hosts", func(prepared) error {
		_, err := (&net.Resolver{PreferGo: true}).LookupHost(context.Background(), "localhost")
		return err
	}},
	{"list the host's addresses", func(prepared) error { _, err := net.InterfaceAddrs(); return err }},
	{"look up in a BPF map", func(p prepared) error {
		if p.bpfMap < 0 {
			return nil
		}
		var key, value uint32
		attr := struct {
			fd         uint32
			_          uint32
			key, value uint64
			flags      uint64
		}{fd: uint32(p.bpfMap), key: uint64(uintptr(unsafe.Pointer(&key))), value: uint64(uintptr(unsafe.Pointer(&value)))}
		return sys(unix.SYS_BPF, unix.BPF_MAP_LOOKUP_ELEM, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	}},
	{"serve TLS", serveTLS},
	{"splice", spliceOnce},
	{"look whether a parked connection lives", lookAtIdle},
	{"collect garbage", func(prepared) error {
		for range 20 {
			_ = make([]byte, 8<<20)
		}
		runtime.GC()
		return nil
	}},
	{"make threads", func(prepared) error { threads(); return nil }},
	{"sleep", func(prepared) error { time.Sleep(time.Millisecond); return nil }},
}

func serveTLS(p prepared) error {
	cfg, err := p.authority.Config("a.test", "http/1.1")
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() {
		conn, err := p.listener.Accept()
		if err == nil {
			defer conn.Close()
			_, err = tls.Server(conn, cfg).Write([]byte("x"))
		}
		served <- err
	}()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.authority.PEM())
	conn, err := tls.Dial("tcp", p.listener.Addr().String(), &tls.Config{ServerName: "a.test", RootCAs: roots, NextProtos: []string{"http/1.1"}})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.ReadFull(conn, make([]byte, 1))
	return errors.Join(err, <-served)
}

// lookAtIdle fails when an idle connection seems to be otherwise: it would never be used again.
func lookAtIdle(p prepared) error {
	conn, err := net.Dial("tcp", p.listener.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	peer, err := p.listener.Accept()
	if err != nil {
		return err
	}
	defer peer.Close()
	if quick.Pending(conn) {
		return errors.New("something is pending")
	}
	return nil
}

func spliceOnce(p prepared) error {
	pair := func() (net.Conn, net.Conn, error) {
		a, err := net.Dial("tcp", p.listener.Addr().String())
		if err != nil {
			return nil, nil, err
		}
		b, err := p.listener.Accept()
		return a, b, err
	}
	from, in, err := pair()
	if err != nil {
		return err
	}
	out, to, err := pair()
	if err != nil {
		return err
	}
	go func() { from.Write(make([]byte, 100_000)); from.Close() }()
	go func() { io.Copy(out, in); out.Close() }()
	n, err := io.Copy(io.Discard, to)
	if err == nil && n != 100_000 {
		err = fmt.Errorf("%d bytes", n)
	}
	return err
}

// confinedBinary returns a test binary without cgo: this one, or one that is built.
func confinedBinary(t *testing.T) string {
	t.Helper()
	if !cgoEnabled {
		return os.Args[0]
	}
	binary := filepath.Join(t.TempDir(), "cli.test")
	build := exec.Command("go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build a test binary without cgo: %v\n%s", err, out)
	}
	return binary
}

func TestConfine(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(confinedBinary(t), "-test.run=^TestConfinedProcess$")
	cmd.Env = append(os.Environ(), confinedEnv+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	if !report(t, stdout) {
		t.Fatal("the confined process ended early")
	}
	checkThreads(t, cmd.Process.Pid)
}

// report turns the lines of the confined process into subtests.
func report(t *testing.T, out io.Reader) bool {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		fields := strings.SplitN(lines.Text(), "\t", 3)
		switch {
		case fields[0] == "done":
			return true
		case len(fields) < 3:
			t.Errorf("confined process: %s", lines.Text())
		case fields[0] == "attempt":
			t.Run("it cannot "+fields[1], func(t *testing.T) { wantNil(t, fields[2]) })
		default:
			t.Run("it can "+fields[1], func(t *testing.T) { wantNil(t, fields[2]) })
		}
	}
	return false
}

func wantNil(t *testing.T, text string) {
	if text != "<nil>" {
		t.Error(text)
	}
}

// checkThreads looks from outside at what every thread has given up.
func checkThreads(t *testing.T, pid int) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(tasks) < 4 {
		t.Fatalf("threads of the confined process: %d, %v", len(tasks), err)
	}
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "CapAmb:\t0000000000000000"} {
			if !strings.Contains(string(status), want) {
				t.Errorf("%s lacks %q", task, want)
			}
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err == nil && !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
		t.Errorf("the core limit is not 0:\n%s", limits)
	}
	var stat syscall.Stat_t
	if err := syscall.Stat(fmt.Sprintf("/proc/%d/environ", pid), &stat); err == nil && stat.Uid != 0 {
		t.Error("the process can be dumped: its /proc files are its own")
	}
}
