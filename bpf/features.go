package bpf

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrNotSupported is wrapped by errors that a newer or differently built kernel would not give.
var ErrNotSupported = errors.New("not supported by this kernel: superserve needs Linux 6.1 or newer with CONFIG_CGROUP_BPF")

// The oldest Linux that the programs are tested on. All hooks exist since 5.9; 6.1 is the oldest long-term
// kernel in which unprivileged lookups by an inherited descriptor and ping sockets' connect hook are both there.
const floorMajor, floorMinor = 6, 1

// Feature is one thing that the programs need of the kernel.
type Feature struct {
	Name string // "cgroup/connect4"
	Need string // what it is for, or since when it exists
	Err  error  // nil when it works here
}

// Probe tries everything that Attach needs, by really attaching each program to cgroup, a cgroup2 directory
// that should be an empty throw-away leaf, and detaching it again. Nothing stays behind.
func Probe(cgroup *os.File) []Feature {
	found := []Feature{{"kernel", fmt.Sprintf("Linux %d.%d", floorMajor, floorMinor), Supported()}}
	spec, err := loadEgress()
	if err != nil {
		return append(found, Feature{"object", "embedded programs", err})
	}
	var r Redirect
	if err := spec.LoadAndAssign(&r.objects, nil); err != nil {
		return append(found, Feature{"load", "CAP_BPF, CAP_NET_ADMIN", explain(err)})
	}
	found = append(found, Feature{"load", "CAP_BPF, CAP_NET_ADMIN", nil})
	for _, h := range r.hooks() {
		l, err := attach(cgroup, h)
		if err == nil {
			err = l.Close()
		}
		found = append(found, Feature{h.name, "attach with bpf_link", explain(err)})
	}
	if err := r.Close(); err != nil {
		found = append(found, Feature{"detach", "", err})
	}
	return found
}

// Supported refuses kernels below the floor, with ErrNotSupported, before any program is loaded, so that the answer
// is about the kernel and not about the first helper that it lacks.
func Supported() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("read kernel version: %w", err)
	}
	return atLeastFloor(unix.ByteSliceToString(u.Release[:]))
}

// atLeastFloor judges a release as uname(2) has it, "6.1.0-26-amd64".
func atLeastFloor(release string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("read kernel version %q: %w", release, err)
	}
	if major > floorMajor || major == floorMajor && minor >= floorMinor {
		return nil
	}
	return fmt.Errorf("kernel %d.%d: %w", major, minor, ErrNotSupported)
}

// explain adds what an errno of bpf(2) means here, and the verifier's own words.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &verifier):
		return fmt.Errorf("%w\n%+v", err, verifier)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w (%w)", ErrNotSupported, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w (CAP_BPF and CAP_NET_ADMIN are missing, a seccomp filter forbids bpf(2), or a cgroup above has a program attached that allows no others)", err)
	case errors.Is(err, unix.EBADF):
		return fmt.Errorf("%w (the directory is not a cgroup2)", err)
	}
	return err
}
