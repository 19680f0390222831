package bpf

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// io_uring by hand (io_uring_setup(2)): one connect, submitted and waited for.

type ringOffsets struct{ head, tail, mask, entries, flags, dropped, array, reserved uint32 }

type ringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	reserved                                             [3]uint32
	sq, cq                                               ringOffsets
	userAddresses                                        [2]uint64
}

type submission struct {
	opcode, flags  uint8
	priority       uint16
	fd             int32
	offset, addr   uint64 // the length of the address is in offset
	length, opflag uint32
	userData       uint64
	rest           [3]uint64
}

const (
	offSubmissionRing = 0
	offCompletionRing = 0x8000000
	offSubmissions    = 0x10000000
	opConnect         = 16
	enterGetEvents    = 1
)

func connectByRing() string {
	return with(unix.AF_INET, unix.SOCK_STREAM, 0, func(fd int) (string, error) {
		result, err := ringConnect(fd)
		if err != nil {
			return "no io_uring", nil
		}
		if result < 0 {
			return "", unix.Errno(-result)
		}
		return readTCP(fd)
	})
}

// ringConnect returns the result of the connect, or an error when there is no ring to be had.
func ringConnect(fd int) (int32, error) {
	var p ringParams
	ring, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&p)), 0)
	if e != 0 {
		return 0, fmt.Errorf("io_uring_setup: %w", e)
	}
	defer unix.Close(int(ring))
	const size = 4096
	var areas [3][]byte
	for i, offset := range []int64{offSubmissionRing, offCompletionRing, offSubmissions} {
		area, err := unix.Mmap(int(ring), offset, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		if err != nil {
			return 0, fmt.Errorf("mmap: %w", err)
		}
		defer unix.Munmap(area)
		areas[i] = area
	}
	sa := unspec(far4)
	sa[0] = unix.AF_INET
	*(*submission)(unsafe.Pointer(&areas[2][0])) = submission{
		opcode: opConnect, fd: int32(fd), addr: uint64(uintptr(unsafe.Pointer(&sa))), offset: uint64(len(sa)),
	}
	*(*uint32)(unsafe.Pointer(&areas[0][p.sq.array])) = 0
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&areas[0][p.sq.tail])), 1)
	if _, _, e := unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, 1, 1, enterGetEvents, 0, 0); e != 0 {
		return 0, fmt.Errorf("io_uring_enter: %w", e)
	}
	runtime.KeepAlive(&sa)
	// The first completion is behind the ring's head: user data of 8 bytes, then the result. For a completion
	// ring the offset of its entries stands where the submission ring has its flags.
	return *(*int32)(unsafe.Pointer(&areas[1][p.cq.flags+8])), nil
}
