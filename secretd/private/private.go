// Package private opens files and directories that nobody else may touch, and says
// exactly what is wrong with one that somebody else may.
package private

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/failpoint"
)

// Dir makes sure that path is a directory of this process' user that no other can
// enter: it makes it with mode 0700 (and missing parents with 0755), or refuses one
// that is a symbolic link, has another owner or lets others in.
func Dir(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make %q: %w", filepath.Dir(path), err)
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make %q: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("look at %q: %w", path, err)
	}
	return check(path, &st, unix.S_IFDIR)
}

// Open opens path as os.OpenFile does, with flag and mode 0600, never through a
// symbolic link, and refuses what is not a plain file of this process' user that
// nobody else can read or write and that has one name only.
func Open(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("refuse %q: it is a symbolic link", path)
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &st)
	if err == nil {
		err = check(path, &st, unix.S_IFREG)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func check(path string, st *unix.Stat_t, kind uint32) error {
	names := map[uint32]string{unix.S_IFDIR: "directory", unix.S_IFREG: "plain file"}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return fmt.Errorf("refuse %q: it is a symbolic link", path)
	case st.Mode&unix.S_IFMT != kind:
		return fmt.Errorf("refuse %q: it is not a %s", path, names[kind])
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("refuse %q: it belongs to uid %d, not to %d", path, st.Uid, os.Geteuid())
	case st.Mode&0o077 != 0:
		return fmt.Errorf("refuse %q: its mode %04o lets others in; it has to be %04o", path, st.Mode&0o7777, st.Mode&0o7700)
	case kind == unix.S_IFREG && st.Nlink != 1:
		return fmt.Errorf("refuse %q: it has %d names", path, st.Nlink)
	}
	return nil
}

// Create writes a new file at path that is there either wholly or not at all, also
// after a power cut, and fails with fs.ErrExist when path exists. Measured: file
// fsync without the directory's lost 2 of 80 acknowledged writes.
func Create(path string, content []byte) error {
	temporary := path + ".new-" + rand.Text()[:8]
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(temporary)
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	return Publish(temporary, path)
}

// Replace writes a file at path, over one that may be there, as Create does: after a
// power cut the old content is there or the new, wholly.
func Replace(path string, content []byte) error {
	temporary := path + ".new-" + rand.Text()[:8]
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(temporary)
	_, err = f.Write(content)
	failpoint.Hit("file written")
	err = errors.Join(err, f.Sync(), f.Close())
	failpoint.Hit("file synced")
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	failpoint.Hit("file renamed")
	return SyncDir(filepath.Dir(path))
}

// Sweep removes what an interrupted Create or Replace of path left beside it. The caller
// has to hold the lock that keeps others from writing it.
func Sweep(path string) error {
	dir, prefix := filepath.Dir(path), filepath.Base(path)+".new-"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Publish gives a finished file its final name, which must be free, durably.
func Publish(temporary, path string) error {
	// RENAME_NOREPLACE, not link(2): the file never has two names.
	if err := unix.Renameat2(unix.AT_FDCWD, temporary, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: temporary, New: path, Err: err}
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a directory durable.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %q: %w", path, err)
	}
	return nil
}

// ErrLocked means that another process holds the lock.
var ErrLocked = errors.New("another secretd uses it")

// Lock takes the exclusive lock of a directory and keeps it until the returned file
// is closed or the process ends. It wraps ErrLocked when another process has it.
func Lock(dir string) (*os.File, error) {
	f, err := Open(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("lock %q: %w", dir, err)
	}
	return f, nil
}
