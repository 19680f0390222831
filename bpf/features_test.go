package bpf

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func TestKernelFloor(t *testing.T) {
	for _, test := range []struct {
		major, minor uint32
		ok           bool
	}{{5, 15, false}, {6, 0, false}, {6, 1, true}, {6, 18, true}, {7, 0, true}} {
		err := atLeastFloor(test.major<<16 | test.minor<<8 | 99)
		if (err == nil) != test.ok {
			t.Errorf("Linux %d.%d: got %v, want supported %v", test.major, test.minor, err, test.ok)
		}
		if err != nil && (!errors.Is(err, ErrNotSupported) || !strings.Contains(err.Error(), "Linux 6.1 or newer")) {
			t.Errorf("Linux %d.%d: got %q", test.major, test.minor, err)
		}
	}
}

func TestExplain(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{unix.EPERM, "CAP_BPF and CAP_NET_ADMIN are missing"},
		{unix.EBADF, "not a cgroup2"},
		{ebpf.ErrNotSupported, "Linux 6.1 or newer"},
		{unix.ENOMEM, "cannot allocate memory"},
	} {
		got := explain(test.err)
		if !errors.Is(got, test.err) || !strings.Contains(got.Error(), test.want) {
			t.Errorf("explain(%v): got %v, want %q", test.err, got, test.want)
		}
	}
	if explain(nil) != nil {
		t.Error("explain(nil): got an error")
	}
}

// The verifier's words are what a report of a refused program needs.
func TestVerifierErrorIsShown(t *testing.T) {
	newWorld(t)
	spec, err := loadEgress()
	if err != nil {
		t.Fatal(err)
	}
	for name := range spec.Programs {
		if name != egressProgRecord {
			delete(spec.Programs, name)
		}
	}
	p := spec.Programs[egressProgRecord]
	p.Instructions = p.Instructions[len(p.Instructions)-1:] // exit, with nothing in r0
	_, err = ebpf.NewProgram(p)
	if err = explain(err); err == nil || !strings.Contains(err.Error(), "R0 !read_ok") {
		t.Errorf("explain: got %v, want the verifier's text", err)
	}
}
