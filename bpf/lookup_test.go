package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// storm connects args[1] times from each of args[0] goroutines, every time elsewhere, and counts answers that
// were not exactly the destination.
func storm(args []string) string {
	var wrong atomic.Int64
	var first atomic.Value
	var wg sync.WaitGroup
	for g := range number(args[0]) {
		wg.Go(func() {
			for i := range number(args[1]) {
				family, a := unix.AF_INET, netip.AddrFrom4([4]byte{203, byte(g), byte(i >> 8), byte(i)})
				if i%2 == 1 {
					family, a = unix.AF_INET6, netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 2: 0xd, 3: 0xb8, 13: byte(g), 14: byte(i >> 8), 15: byte(i)})
				}
				to := netip.AddrPortFrom(a, uint16(1024+i))
				if got := tcp(family, to)(); got != arrived(to, to) {
					wrong.Add(1)
					first.CompareAndSwap(nil, got)
				}
			}
		})
	}
	wg.Wait()
	return fmt.Sprintf("%d wrong %v", wrong.Load(), first.Load())
}

func TestNoDestinationIsLostUnderConcurrency(t *testing.T) {
	w := newWorld(t)
	const goroutines, each = 16, 500
	start := time.Now()
	if got := w.run(t, true, "storm", fmt.Sprint(goroutines), fmt.Sprint(each)); got != "0 wrong <nil>" {
		t.Errorf("%d connections: got %s", goroutines*each, got)
	}
	n, err := w.redirect.Counters()
	if err != nil || n.Redirected != goroutines*each || n.Unrecorded != 0 {
		t.Errorf("counters: got %+v, %v, want %d redirected and all recorded", n, err, goroutines*each)
	}
	t.Logf("%d connections in %v", goroutines*each, time.Since(start))
}

// lookupInherited opens descriptor 3 and looks args[0] up, then tries to change it.
func lookupInherited(args []string) string {
	d, err := OpenDestinations(os.NewFile(3, "destinations"))
	if err != nil {
		return err.Error()
	}
	defer d.Close()
	to, err := d.Lookup(ap(args[0]))
	if err != nil {
		return err.Error()
	}
	_, unknown := d.Lookup(ap("127.0.0.1:1"))
	key := endpoint(ap(args[0]))
	write := d.entries.Put(&key, &key)
	status, _ := os.ReadFile("/proc/self/status")
	_, caps, _ := strings.Cut(string(status), "CapEff:\t")
	return fmt.Sprintf("uid %d caps %.16s: %v, none %v, write refused %v", os.Geteuid(), caps, to, errors.Is(unknown, ErrNoDestination), errors.Is(write, unix.EPERM))
}

func TestLookupWithoutPrivileges(t *testing.T) {
	w := newWorld(t)
	if got := w.run(t, true, "from", "127.0.0.1:40001", far4.String()); got != arrived(far4, far4) {
		t.Fatalf("connect: got %q", got)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copied := copyForEveryone(t, self)
	cmd := command(t, "lookup", "127.0.0.1:40001")
	cmd.Path = copied
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{w.redirect.Destinations()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	want := "uid 65534 caps 0000000000000000: 192.0.2.1:443, none true, write refused true"
	if got := string(out); err != nil || got != want {
		t.Errorf("lookup: got %q, %v, want %q", got, err, want)
	}
	if b, err := os.ReadFile("/proc/sys/kernel/unprivileged_bpf_disabled"); err == nil {
		t.Logf("unprivileged_bpf_disabled=%s", strings.TrimSpace(string(b)))
	}
}

// copyForEveryone copies the test binary to where nobody may execute it from.
func copyForEveryone(t *testing.T, path string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "bpftest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	name := dir + "/lookup"
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(name, b, 0o755), os.Chmod(name, 0o755)); err != nil {
		t.Fatal(err)
	}
	return name
}
