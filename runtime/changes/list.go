package changes

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kind says what became of a file.
type Kind byte

// The kinds, in the letters that git uses.
const (
	Added    Kind = 'A'
	Modified Kind = 'M'
	Deleted  Kind = 'D'
)

// Change is one file, link or folder that a run has changed. Path is the agent's: any bytes but NUL, to be escaped
// before it is shown.
type Change struct {
	Path string
	Kind Kind

	// Refused says why it is not taken over: a device, a link out of the folder. "" means that it can be.
	Refused string
	// Conflict says that the folder's own file has changed since the run began.
	Conflict bool

	mode uint32 // st_mode in the upper directory; 0 of what is deleted
}

// Set is the changes of one run: an upper directory of overlayfs and the folder that it lies over. Close it. It is not
// safe for concurrent use.
type Set struct {
	upper, folder *os.File
	since         time.Time
}

// Open opens the changes at upper to the folder of a run that began at since.
func Open(upper, folder string, since time.Time) (*Set, error) {
	u, err := openTop(upper)
	if err != nil {
		return nil, fmt.Errorf("open changes: %w", err)
	}
	f, err := openTop(folder)
	if err != nil {
		u.Close()
		return nil, fmt.Errorf("open changes: %w", err)
	}
	return &Set{u, f, since}, nil
}

// Close lets go of the folders.
func (s *Set) Close() error { return errors.Join(s.upper.Close(), s.folder.Close()) }

// List compares the changes with the folder as it is now: what was taken over is no change any more. They are in an
// order in which they can be taken over.
func (s *Set) List() ([]Change, error) {
	l := lister{since: s.since}
	err := l.folder(s.upper, s.folder, ".", 0)
	return l.found, err
}

type lister struct {
	since time.Time
	found []Change
}

// folder compares one folder; below is nil where the host's folder has none of that name.
func (l *lister) folder(upper, below *os.File, at string, depth int) error {
	if depth > maxDepth {
		l.add(Change{Path: at, Kind: Added, Refused: errDepth.Error()})
		return nil
	}
	list, err := names(upper)
	if err != nil {
		return fmt.Errorf("changes in %q: %w", at, err)
	}
	if below != nil && opaque(upper) {
		if err := l.hidden(below, at, list); err != nil {
			return err
		}
	}
	for _, name := range list {
		if err := l.entry(upper, below, name, path.Join(at, name), depth); err != nil {
			return err
		}
	}
	return nil
}

// hidden adds what a folder that was made anew does not have any more.
func (l *lister) hidden(below *os.File, at string, kept []string) error {
	list, err := names(below)
	if err != nil {
		return fmt.Errorf("changes in %q: %w", at, err)
	}
	for _, name := range list {
		if slices.Contains(kept, name) {
			continue
		}
		if st, ok, err := stat(below, name); err == nil && ok {
			l.add(Change{Path: path.Join(at, name), Kind: Deleted, Conflict: l.newer(st)})
		}
	}
	return nil
}

func (l *lister) entry(upper, below *os.File, name, at string, depth int) error {
	st, ok, err := stat(upper, name)
	if err != nil || !ok {
		return err
	}
	var old unix.Stat_t
	there := false
	if below != nil {
		if old, there, err = stat(below, name); err != nil {
			return err
		}
	}
	c := Change{Path: at, Kind: Added, mode: st.Mode}
	if there {
		c.Kind, c.Conflict = Modified, l.newer(old)
	}
	if kindOf(st) == unix.S_IFCHR && st.Rdev == 0 {
		if c.Kind, c.mode = Deleted, 0; there {
			l.add(c)
		}
		return nil
	}
	if kindOf(st) == unix.S_IFDIR {
		return l.subfolder(upper, below, name, c, there && kindOf(old) == unix.S_IFDIR, st.Mode&0o777 == old.Mode&0o777, depth)
	}
	if there && same(upper, below, name, st, old) {
		return nil
	}
	c.Refused = refuse(upper, name, at, st)
	l.add(c)
	return nil
}

// subfolder adds a folder if it is new or has other permissions, and goes on inside.
func (l *lister) subfolder(upper, below *os.File, name string, c Change, folder, alike bool, depth int) error {
	if c.Conflict = c.Conflict && !folder; !folder || !alike {
		l.add(c)
	}
	sub, err := openDir(upper, name)
	if err != nil {
		return err
	}
	defer sub.Close()
	if !folder {
		return l.folder(sub, nil, c.Path, depth+1)
	}
	old, err := openDir(below, name)
	if err != nil {
		return err
	}
	defer old.Close()
	return l.folder(sub, old, c.Path, depth+1)
}

func (l *lister) add(c Change) { l.found = append(l.found, c) }

// newer reports whether the folder's own file was touched after the run began.
func (l *lister) newer(st unix.Stat_t) bool { return time.Unix(st.Ctim.Unix()).After(l.since) }

// refuse says why a file is not taken over. A link may only lead to what is in the folder with it: who follows another
// writes, or reads, where the agent wants.
func refuse(dir *os.File, name, at string, st unix.Stat_t) string {
	switch kindOf(st) {
	case unix.S_IFREG:
		return ""
	case unix.S_IFLNK:
		to, err := readlink(dir, name)
		switch {
		case err != nil:
			return "an unreadable link"
		case path.IsAbs(to) && (to == "/workspace" || strings.HasPrefix(to, "/workspace/")):
			return "a link by the sandbox's own path"
		case path.IsAbs(to) || outside(path.Join(path.Dir(at), to)):
			return "a link out of the folder"
		}
		return ""
	case unix.S_IFIFO:
		return "a pipe"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "a device"
}

func outside(p string) bool { return p == ".." || strings.HasPrefix(p, "../") }

// opaque reports whether overlayfs has marked a folder as one that hides the folder below (Documentation/filesystems/
// overlayfs.rst, "whiteouts and opaque directories").
func opaque(dir *os.File) bool {
	buf := make([]byte, 1)
	n, err := unix.Fgetxattr(int(dir.Fd()), "trusted.overlay.opaque", buf)
	return err == nil && n == 1 && buf[0] == 'y'
}

// same reports whether a file in the upper directory is only a copy: overlayfs copies whatever is opened for writing.
func same(upper, below *os.File, name string, st, old unix.Stat_t) bool {
	if st.Mode != old.Mode {
		return false
	}
	switch kindOf(st) {
	case unix.S_IFLNK:
		a, errA := readlink(upper, name)
		b, errB := readlink(below, name)
		return errA == nil && errB == nil && a == b
	case unix.S_IFREG:
		return st.Size == old.Size && sameText(upper, below, name)
	}
	return false
}

func sameText(upper, below *os.File, name string) bool {
	a, err := openFile(upper, name)
	if err != nil {
		return false
	}
	defer a.Close()
	b, err := openFile(below, name)
	if err != nil {
		return false
	}
	defer b.Close()
	const chunk = 64 << 10
	bufA, bufB := make([]byte, chunk), make([]byte, chunk)
	for {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return false
		}
		if errA != nil || errB != nil {
			return ended(errA) && ended(errB)
		}
	}
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
