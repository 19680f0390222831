package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A tail is a file of a head and two halves. A half is filled with whole lines, then
// written to the log while the other is filled. The length of a half is stored after
// the line it makes room for, so that whoever reads the file after the writer was
// killed finds whole lines only.
const (
	tailMagic  = "ssjourn1"
	atLength   = 8  // two lengths, 64 bits each, in the order of the host
	atKey      = 32 // the first key; the writer takes it out
	tailHead   = 4096
	halfBytes  = 64 << 10
	tailLength = tailHead + 2*halfBytes
)

// CreateTail makes the tail of a new log at path, of mode 0600, with the chain's first
// key in it. All its blocks are allocated: a full disk shall be an error of a write,
// not the death of the process that maps it. The file carries a lock (flock(2)), which
// goes with its descriptor to the writer and ends when the last of them is closed: by
// it Settle knows whether the writer lives. The caller closes the file.
func CreateTail(path string, key [KeySize]byte) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = unix.Fallocate(int(f.Fd()), 0, 0, tailLength)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = f.Write(make([]byte, tailLength))
	}
	head := make([]byte, atKey+KeySize)
	copy(head, tailMagic)
	copy(head[atKey:], key[:])
	if err == nil {
		_, err = f.WriteAt(head, 0)
	}
	if err != nil {
		f.Close()
		return nil, errors.Join(fmt.Errorf("make %q: %w", path, err), os.Remove(path))
	}
	return f, nil
}

// tail is a mapped tail. It is not safe for concurrent use.
type tail struct{ mem []byte }

// mapTail maps a tail and takes the key out of it, so that the file holds none.
func mapTail(f *os.File) (tail, [KeySize]byte, error) {
	var key [KeySize]byte
	info, err := f.Stat()
	if err == nil && info.Size() != tailLength {
		err = errors.New("not a tail")
	}
	if err != nil {
		return tail{}, key, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, tailLength, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return tail{}, key, err
	}
	t := tail{mem}
	if string(mem[:len(tailMagic)]) != tailMagic || t.length(0) != 0 || t.length(1) != 0 {
		t.close()
		return tail{}, key, errors.New("not a fresh tail")
	}
	copy(key[:], mem[atKey:])
	clear(mem[atKey : atKey+KeySize])
	return t, key, nil
}

func (t tail) word(half int) *uint64 {
	return (*uint64)(unsafe.Pointer(&t.mem[atLength+8*half])) // mapped memory begins at a page
}

func (t tail) length(half int) int { return int(atomic.LoadUint64(t.word(half))) }

func (t tail) setLength(half, n int) { atomic.StoreUint64(t.word(half), uint64(n)) }

func (t tail) half(half int) []byte {
	at := tailHead + half*halfBytes
	return t.mem[at : at+halfBytes : at+halfBytes]
}

func (t tail) close() error { return unix.Munmap(t.mem) }

// leftover returns the whole lines in the bytes of a tail whose numbers follow last,
// in their order. The bytes may be anything.
func leftover(mem []byte, last uint64) [][]byte {
	if len(mem) != tailLength || string(mem[:len(tailMagic)]) != tailMagic {
		return nil
	}
	found := map[uint64][]byte{}
	var numbers []uint64
	for half := range 2 {
		n := binary.NativeEndian.Uint64(mem[atLength+8*half:])
		at := tailHead + half*halfBytes
		for line := range lines(mem[at : at+int(min(n, halfBytes))]) {
			if seq, ok := number(line); ok && found[seq] == nil {
				found[seq], numbers = line, append(numbers, seq)
			}
		}
	}
	slices.Sort(numbers)
	var out [][]byte
	for _, n := range numbers {
		if n == last+1 {
			out, last = append(out, found[n]), n
		}
	}
	return out
}
