package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// parent is the cgroup that all leaves are in. It exists while one of them does.
	parent = "superserve"

	// record is the extended attribute of a leaf that lists its cgroup1 directories, separated by NUL, so
	// that whoever sweeps it finds them wherever the dead supervisor's own cgroup was.
	record = "trusted.superserve.v1"

	// closeTimeout bounds the wait for killed processes to be gone. One in an uninterruptible wait for a
	// disk may take long.
	closeTimeout = 10 * time.Second
)

// validName reports whether name is 1 to 64 lower-case letters, digits, - and _, of which the first is one of the former
// two. It is no regular expression, whose compilation took 0.16 ms of each start of each process (2026-11-23).
func validName(name string) bool {
	for i, c := range []byte(name) {
		plain := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !plain && (i == 0 || c != '-' && c != '_') {
			return false
		}
	}
	return len(name) >= 1 && len(name) <= 64
}

// Leaf is the control group of one sandbox. It is safe for concurrent use.
type Leaf struct {
	path string            // directory in cgroup2
	v1   map[string]string // controller → directory, of the limits that cgroup1 keeps
	home map[string]string // controller → directory that this process is in
	// spare is the controller in v1 that limits nothing, "" if all do: a start goes on without it.
	spare string
	file  *os.File
	on    unix.CPUSet // the processors that it runs on; none: all

	mu     sync.Mutex // guards what follows
	closed bool
	oom    bool // as it was when the leaf was closed
}

// New makes the leaf superserve/name, a name of at most 64 lower-case letters, digits, - and _ that is not in
// use, with limits l. A limit that cannot be applied is an error that says why. It needs root. The caller
// closes it.
func New(h Hierarchy, name string, l Limits) (*Leaf, error) {
	if !validName(name) {
		return nil, fmt.Errorf("make cgroup %q: the name is not valid", name)
	}
	leaf := &Leaf{path: filepath.Join(h.Root, parent, name), home: h.V1}
	if err := leaf.make(h, name, l); err != nil {
		return nil, fmt.Errorf("make cgroup %q: %w", leaf.path, err)
	}
	return leaf, nil
}

// make creates the directories. One that exists already is another sandbox's and is not touched.
func (l *Leaf) make(h Hierarchy, name string, limits Limits) error {
	settings, err := limits.settings()
	if err != nil {
		return err
	}
	v2, v1, err := place(h, settings)
	if err != nil {
		return err
	}
	if err := mkdir(l.path, func() error { return enable(h.Root, v2) }); err != nil {
		return err
	}
	if err := l.fill(h, name, v2, v1); err != nil {
		return errors.Join(err, l.Close())
	}
	l.claim(limits.CPU)
	return nil
}

// fill does what needs the leaf to exist.
func (l *Leaf) fill(h Hierarchy, name string, v2, v1 []setting) (err error) {
	if l.file, err = os.OpenFile(l.path, os.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return err
	}
	l.v1 = map[string]string{}
	for _, s := range v1 {
		l.v1[s.controller] = filepath.Join(h.V1[s.controller], parent, name)
		if s.spare {
			l.spare = s.controller
		}
	}
	if err := l.writeRecord(); err != nil {
		return err
	}
	for _, dir := range l.directories() {
		if err := mkdir(dir, func() error { return nil }); err != nil && !l.drop(dir) {
			return err
		}
	}
	for _, s := range v2 {
		if err := s.write(l.path, s.v2); err != nil {
			return err
		}
	}
	for _, s := range v1 {
		if err := s.write(l.v1[s.controller], s.v1); err != nil {
			return err
		}
	}
	return nil
}

// mkdir makes dir and the parent that it shares with others, which prepare then sees to. Another supervisor
// may remove the parent, when it is empty, between the two; then it is tried again.
func mkdir(dir string, prepare func() error) error {
	var err error
	for range 20 {
		err = os.MkdirAll(filepath.Dir(dir), 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue // it was there, and no more when MkdirAll looked again
		}
		if err == nil {
			err = prepare()
		}
		if err == nil {
			err = os.Mkdir(dir, 0o755)
		}
		if !gone(err) {
			return err
		}
	}
	return err
}

// gone says whether err is that of a cgroup which was removed, before its file was opened or (ENODEV) after.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

// directories are the leaf's cgroup1 directories, each once: two controllers may share a hierarchy.
func (l *Leaf) directories() []string {
	var dirs []string
	for _, dir := range l.v1 {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// drop gives the directory dir up, if it limits nothing: cgroup1 may be there to be read only.
func (l *Leaf) drop(dir string) bool {
	for controller, d := range l.v1 {
		if d == dir && controller != l.spare {
			return false
		}
	}
	delete(l.v1, l.spare)
	return true
}

func (l *Leaf) writeRecord() error {
	if len(l.v1) == 0 {
		return nil
	}
	if err := unix.Setxattr(l.path, record, []byte(strings.Join(l.directories(), "\x00")), 0); err != nil {
		return fmt.Errorf("record cgroup1 directories: %w", err)
	}
	return nil
}

// File is a descriptor of the leaf's cgroup2 directory. It belongs to l.
func (l *Leaf) File() *os.File { return l.file }

// Populated says whether a process is in the leaf. A process that has ended and was not waited for is not.
func (l *Leaf) Populated() (bool, error) {
	b, err := os.ReadFile(filepath.Join(l.path, "cgroup.events"))
	if err != nil {
		return false, fmt.Errorf("read cgroup events: %w", err)
	}
	return field(b, "populated") != 0, nil
}

// Kill sends SIGKILL to every process in the leaf, at once and without a race with fork.
func (l *Leaf) Kill() error { return l.write("cgroup.kill", "1") }

// Freeze stops all processes in the leaf, or lets them go on. It does not wait until they have stopped.
func (l *Leaf) Freeze(frozen bool) error {
	if frozen {
		return l.write("cgroup.freeze", "1")
	}
	return l.write("cgroup.freeze", "0")
}

func (l *Leaf) write(name, value string) error {
	if err := writeFile(filepath.Join(l.path, name), value); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Wait returns when no process is in the leaf, or with ctx's error.
func (l *Leaf) Wait(ctx context.Context) error {
	// The kernel announces changes of cgroup.events by POLLPRI, but at most every 10 ms; so a short poll at
	// first, that a sandbox of some milliseconds does not wait for its end.
	const first, longest = 1, 200 // milliseconds
	events, err := os.Open(filepath.Join(l.path, "cgroup.events"))
	if err != nil {
		return fmt.Errorf("wait for cgroup: %w", err)
	}
	defer events.Close()
	for timeout := first; ; timeout = min(2*timeout, longest) {
		b := make([]byte, 256)
		n, err := events.ReadAt(b, 0)
		if n == 0 && err != nil {
			return fmt.Errorf("wait for cgroup: %w", err)
		}
		if field(b[:n], "populated") == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, timeout); err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for cgroup: %w", err)
		}
	}
}

// OOMKilled says whether the kernel killed a process of the leaf because the memory limit was reached. It
// answers after Close too.
func (l *Leaf) OOMKilled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.oom || l.outOfMemory()
}

func (l *Leaf) outOfMemory() bool {
	name := filepath.Join(l.path, "memory.events")
	if dir := l.v1["memory"]; dir != "" {
		name = filepath.Join(dir, "memory.oom_control")
	}
	b, err := os.ReadFile(name)
	return err == nil && field(b, "oom_kill") > 0
}

// Close kills what is in the leaf, waits for it, at most 10 s, and removes the leaf. It may be called again.
func (l *Leaf) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	if err := l.Kill(); err != nil {
		return fmt.Errorf("close cgroup: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := l.Wait(ctx); err != nil {
		return fmt.Errorf("close cgroup %q: %w", l.path, err)
	}
	l.oom = l.outOfMemory()
	var errs []error
	for _, dir := range append(l.directories(), l.path) { // the leaf last: it has the record of the others
		errs = append(errs, remove(ctx, dir))
	}
	if l.file != nil {
		errs = append(errs, l.file.Close())
	}
	l.closed = true
	return errors.Join(errs...)
}

// remove removes dir with all cgroups in it, and the shared parent when it is empty.
func remove(ctx context.Context, dir string) error {
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	for _, path := range slices.Backward(all) {
		if err := rmdir(ctx, path); err != nil {
			return fmt.Errorf("remove cgroup %q: %w", path, err)
		}
	}
	unix.Rmdir(filepath.Dir(dir)) // fails while another sandbox has a leaf in it
	return nil
}

// rmdir removes an empty cgroup. The last process may be dead and still on its way out: that is EBUSY.
func rmdir(ctx context.Context, path string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := unix.Rmdir(path)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EBUSY {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}
