package bpf

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrDetached means that a program is not on the cgroup any more.
var ErrDetached = errors.New("detached from the cgroup")

// Check returns an error that wraps ErrDetached when one of the programs was detached by somebody else, as root
// can (bpftool link detach): the link is still there then, and is attached to nothing. It must not be called
// after Close.
func (r *Redirect) Check() error {
	for i, l := range r.links {
		id, err := cgroupOf(l.FD())
		if err != nil {
			return fmt.Errorf("check %s: %w", r.hooks()[i].name, err)
		}
		if id == 0 {
			return fmt.Errorf("%s: %w", r.hooks()[i].name, ErrDetached)
		}
	}
	return nil
}

// linkInfo is struct bpf_link_info of a cgroup link.
type linkInfo struct {
	kind, id, program, _ uint32
	cgroup               uint64
	attachType, _        uint32
}

// cgroupOf asks the kernel what cgroup a link is on. From its detachment on that is 0
// (bpf_cgroup_link_fill_link_info, kernel/bpf/cgroup.c). cilium/ebpf tells no more of a RawLink than its kind.
func cgroupOf(link int) (uint64, error) {
	var info linkInfo
	attr := struct {
		fd, length uint32
		info       unsafe.Pointer
	}{uint32(link), uint32(unsafe.Sizeof(info)), unsafe.Pointer(&info)}
	if _, _, e := unix.Syscall(unix.SYS_BPF, unix.BPF_OBJ_GET_INFO_BY_FD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)); e != 0 {
		return 0, fmt.Errorf("ask for link: %w", e)
	}
	return info.cgroup, nil
}
