package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lines yields the lines of p with their ends, leaving out a last one that has
// none.
func lines(p []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for {
			at := bytes.IndexByte(p, '\n')
			if at < 0 || !yield(p[:at+1]) {
				return
			}
			p = p[at+1:]
		}
	}
}

// Settle ends a log whose writer is dead: what the writer left in the tail is added
// to the log, a line that it was in the middle of is taken from there, then is called
// (it may seal), and the tail is removed. It may be repeated, also after it was killed
// half-way or then failed, and by two at once, of which one does it. Both files are the
// untrusted writer's work: what it finds in them is bounded and moved, and not believed.
func Settle(logPath, tailPath string, then func() error) error {
	f, err := os.Open(tailPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("settle log %q: %w", logPath, err)
	}
	defer f.Close()
	if !lock(f) {
		return nil // its writer lives, or somebody else does it
	}
	if _, err := os.Stat(tailPath); errors.Is(err, fs.ErrNotExist) {
		return nil // somebody else has done it
	}
	mem, err := readTail(f)
	if err == nil {
		err = appendLeftover(logPath, mem)
	}
	if err = errors.Join(err, then()); err != nil {
		return fmt.Errorf("settle log %q: %w", logPath, err)
	}
	return os.Remove(tailPath)
}

// lock takes the lock of a tail. A process that was killed takes a moment to die.
func lock(f *os.File) bool {
	for range 20 {
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

func readTail(f io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(f, tailLength+1)) }

func appendLeftover(path string, mem []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	last, size, err := lastLine(f)
	if err != nil {
		return err
	}
	more := leftover(mem, last)
	if len(more) == 0 {
		return nil
	}
	if err := f.Truncate(size); err != nil { // half a line, which is whole in the tail
		return err
	}
	_, err = f.WriteAt(bytes.Join(more, nil), size)
	return err
}

// lastLine returns the number of the last whole line, 0 when there is none, and the
// offset behind it.
func lastLine(f *os.File) (last uint64, size int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	from := max(0, info.Size()-2*MaxLine)
	p := make([]byte, info.Size()-from)
	if n, err := f.ReadAt(p, from); n < len(p) {
		return 0, 0, err
	}
	end := bytes.LastIndexByte(p, '\n') + 1
	if end == 0 && from > 0 {
		return 0, 0, errors.New("no line where the last one should be")
	}
	if end == 0 {
		return 0, 0, nil
	}
	last, ok := number(p[bytes.LastIndexByte(p[:end-1], '\n')+1 : end])
	if !ok {
		return 0, 0, errors.New("the last line is none of a journal")
	}
	return last, from + int64(end), nil
}

// Reader reads the lines of one log from its beginning, as far as they are written,
// and goes on from there when it has grown. It is not safe for concurrent use.
type Reader struct {
	log, tail string
	file      *os.File
	rest      []byte
	last      uint64
}

// OpenReader opens a log; the path of its tail may be "" or of a file that is no more.
func OpenReader(log, tail string) (*Reader, error) {
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	return &Reader{log: log, tail: tail, file: f}, nil
}

// Each calls do with every line that came since the last call, without its end. The
// line is do's for the time of the call. With dead set, for a log whose writer lives
// no more, lines that are only in the tail come too.
func (r *Reader) Each(dead bool, do func(line []byte) error) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.file.Read(buf)
		r.rest = append(r.rest, buf[:n]...)
		used := 0
		for line := range lines(r.rest) {
			if err := r.give(line, do); err != nil {
				return err
			}
			used += len(line)
		}
		r.rest = append(r.rest[:0], r.rest[used:]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if len(r.rest) > 2*MaxLine {
			return fmt.Errorf("read log %q: a line is too long", r.log)
		}
	}
	if !dead || r.tail == "" {
		return nil
	}
	f, err := os.Open(r.tail)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // settled: its lines are in the log
	}
	if err != nil {
		return err
	}
	defer f.Close()
	mem, err := readTail(f)
	if err != nil {
		return err
	}
	for _, line := range leftover(mem, r.last) {
		if err := r.give(line, do); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reader) give(line []byte, do func([]byte) error) error {
	if n, ok := number(line); ok {
		r.last = n
	}
	return do(line[:len(line)-1])
}

// Close closes the log's file.
func (r *Reader) Close() error { return r.file.Close() }
