package locked

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestCopy(t *testing.T) {
	for _, n := range []int{0, 1, 40, pageSize, pageSize + 1, 64 << 10} {
		want := bytes.Repeat([]byte{'k'}, n)
		got := Copy(want)
		if !bytes.Equal(got, want) {
			t.Fatalf("Copy of %d bytes differs", n)
		}
		if n > 0 && uintptr(unsafe.Pointer(&got[0]))%pageSize != 0 {
			t.Errorf("Copy of %d bytes is not on a page of its own", n)
		}
		if len(got) != cap(got) {
			t.Errorf("Copy of %d bytes can be appended to in place", n)
		}
	}
}

// TestCopyIsWiped looks at the memory of a value after its last reader is gone,
// through an address that the garbage collector does not see.
func TestCopyIsWiped(t *testing.T) {
	at := leak()
	deadline := time.Now().Add(time.Minute)
	for !wiped(at) {
		if time.Now().After(deadline) {
			t.Fatal("the value is still in memory after a minute of collections")
		}
		runtime.GC()
		runtime.Gosched()
	}
}

//go:noinline
func leak() uintptr {
	return uintptr(unsafe.Pointer(&Copy(bytes.Repeat([]byte{0xa7}, 512))[0]))
}

// wiped reads by process_vm_readv, so that neither vet nor the collector minds.
func wiped(at uintptr) bool {
	p := make([]byte, 512)
	local := []unix.Iovec{{Base: &p[0], Len: 512}}
	remote := []unix.RemoteIovec{{Base: at, Len: 512}}
	if _, err := unix.ProcessVMReadv(os.Getpid(), local, remote, 0); err != nil {
		return true // unmapped
	}
	return !bytes.Contains(p, bytes.Repeat([]byte{0xa7}, 16))
}

func TestWipe(t *testing.T) {
	p := []byte("secret")
	Wipe(p)
	if !bytes.Equal(p, make([]byte, 6)) {
		t.Fatalf("got %v", p)
	}
}

func TestProcess(t *testing.T) {
	if os.Getenv("LOCKED_CHILD") == "1" {
		child(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestProcess$", "-test.v")
	cmd.Env = append(os.Environ(), "LOCKED_CHILD=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "child is locked") {
		t.Fatalf("child: %v\n%s", err, out)
	}
}

func child(t *testing.T) {
	if err := Process(); err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit.Cur != 0 || limit.Max != 0 {
		t.Fatalf("RLIMIT_CORE %+v, %v", limit, err)
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil || dumpable != 0 {
		t.Fatalf("dumpable %d, %v", dumpable, err)
	}
	t.Log("child is locked")
}
