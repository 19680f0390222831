package changes

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrConflict means that the folder itself has changed since the run began.
var ErrConflict = errors.New("changed since the run began")

// Apply takes changes over into the folder, as List returned them, and leaves out those that are refused. Unless force
// is set it does nothing at all when one of them conflicts: ErrConflict. Owners are those that the files have in the
// upper directory, which are never the sandbox's own; set-uid and set-gid bits do not travel.
func (s *Set) Apply(list []Change, force bool) error {
	for _, c := range list {
		if c.Conflict && !force && c.Refused == "" {
			return fmt.Errorf("%q %w", c.Path, ErrConflict)
		}
	}
	for _, c := range list {
		if c.Refused != "" {
			continue
		}
		if err := s.take(c); err != nil {
			return fmt.Errorf("take over %q: %w", c.Path, err)
		}
	}
	return nil
}

func (s *Set) take(c Change) error {
	dir, base := path.Split(c.Path)
	to, err := openPath(s.folder, dir)
	if err != nil {
		return err
	}
	defer to.Close()
	if c.Kind == Deleted {
		return remove(to, base, 0)
	}
	from, err := openPath(s.upper, dir)
	if err != nil {
		return err
	}
	defer from.Close()
	switch c.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return takeFolder(from, to, base)
	case unix.S_IFLNK:
		return takeLink(from, to, base)
	}
	return takeFile(from, to, base)
}

// openPath opens a folder by its path below top, a step at a time: a path may be longer than the kernel takes at once.
func openPath(top *os.File, dir string) (*os.File, error) {
	at, err := openDir(top, ".")
	for _, name := range strings.Split(dir, "/") {
		if err != nil {
			return nil, err
		}
		if name == "" || name == "." {
			continue
		}
		var next *os.File
		next, err = openDir(at, name)
		at.Close()
		at = next
	}
	return at, err
}

// takeFile writes a new file beside the old one and puts it in its place at once.
func takeFile(from, to *os.File, name string) error {
	in, err := openFile(from, name)
	if err != nil {
		return err
	}
	defer in.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(in.Fd()), &st); err != nil {
		return err
	}
	temp := ".superserve-" + rand.Text()
	out, err := open(to, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chown(int(st.Uid), int(st.Gid)), unix.Fchmod(int(out.Fd()), st.Mode&0o777), out.Close())
	if err == nil {
		err = replace(to, temp, name)
	}
	if err != nil {
		unix.Unlinkat(int(to.Fd()), temp, 0)
	}
	return err
}

func takeLink(from, to *os.File, name string) error {
	target, err := readlink(from, name)
	if err != nil {
		return err
	}
	st, _, err := stat(from, name)
	if err != nil {
		return err
	}
	temp := ".superserve-" + rand.Text()
	if err := unix.Symlinkat(target, int(to.Fd()), temp); err != nil {
		return err
	}
	err = unix.Fchownat(int(to.Fd()), temp, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = replace(to, temp, name)
	}
	if err != nil {
		unix.Unlinkat(int(to.Fd()), temp, 0)
	}
	return err
}

// replace puts temp in the place of name, which may be a folder.
func replace(dir *os.File, temp, name string) error {
	if st, ok, err := stat(dir, name); err != nil || ok && kindOf(st) == unix.S_IFDIR {
		if err = errors.Join(err, remove(dir, name, 0)); err != nil {
			return err
		}
	}
	return unix.Renameat(int(dir.Fd()), temp, int(dir.Fd()), name)
}

func takeFolder(from, to *os.File, name string) error {
	st, _, err := stat(from, name)
	if err != nil {
		return err
	}
	if old, ok, err := stat(to, name); err != nil || ok && kindOf(old) != unix.S_IFDIR {
		if err = errors.Join(err, remove(to, name, 0)); err != nil {
			return err
		}
	}
	if err := unix.Mkdirat(int(to.Fd()), name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, err := openDir(to, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	return errors.Join(dir.Chown(int(st.Uid), int(st.Gid)), unix.Fchmod(int(dir.Fd()), st.Mode&0o777))
}

// remove removes a file, or a folder with all that is in it, following nothing.
func remove(dir *os.File, name string, depth int) error {
	st, ok, err := stat(dir, name)
	if err != nil || !ok {
		return err
	}
	if kindOf(st) != unix.S_IFDIR {
		return unix.Unlinkat(int(dir.Fd()), name, 0)
	}
	if depth > maxDepth {
		return errDepth
	}
	sub, err := openDir(dir, name)
	if err != nil {
		return err
	}
	defer sub.Close()
	list, err := names(sub)
	if err != nil {
		return err
	}
	for _, n := range list {
		if err := remove(sub, n, depth+1); err != nil {
			return err
		}
	}
	return unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
}
