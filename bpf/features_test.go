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
		release string
		ok      bool
	}{
		{"5.15.0-105-generic", false}, {"6.0.19", false}, {"2.6.78", false}, {"6.1.0-26-amd64", true}, {"6.18.44", true}, {"7.0-rc1", true}, {"6.10", true},
	} {
		err := atLeastFloor(test.release)
		if (err == nil) != test.ok {
			t.Errorf("Linux %s: got %v, want supported %v", test.release, err, test.ok)
		}
		if err != nil && (!errors.Is(err, ErrNotSupported) || !strings.Contains(err.Error(), "Linux 6.1 or newer")) {
			t.Errorf("Linux %s: got %q", test.release, err)
		}
	}
	if err := atLeastFloor("plan9"); err == nil || errors.Is(err, ErrNotSupported) {
		t.Errorf("a release without numbers: got %v", err)
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
