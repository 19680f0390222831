// Package changes deals with what an agent has left behind in a folder of the host: it lists and takes over the changes
// of a run that were kept apart, and disarms what a run wrote for real.
//
// Everything in such a folder is hostile: names, links, kinds and modes of files. So no path is ever walked as a whole:
// each folder is opened by its name in its parent, beneath it and through no symbolic link (openat2(2), Linux 5.6),
// nothing is executed, and nothing but regular files is opened for reading.
package changes

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxDepth bounds the nesting of folders that is followed; each costs a descriptor.
const maxDepth = 256

// beneath is how anything in a hostile folder is opened.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// errDepth means that folders nest deeper than any project's.
var errDepth = errors.New("nested too deeply")

// openTop opens a folder by the operator's own path to it.
func openTop(dir string) (*os.File, error) {
	return os.OpenFile(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// open opens name in dir.
func open(dir *os.File, name string, flags uint64, mode fs.FileMode) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC | unix.O_NOFOLLOW, Mode: uint64(mode.Perm()), Resolve: beneath,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func openDir(dir *os.File, name string) (*os.File, error) {
	return open(dir, name, unix.O_DIRECTORY, 0)
}

// openFile opens a regular file for reading. O_NONBLOCK keeps a pipe that took its place from holding us.
func openFile(dir *os.File, name string) (*os.File, error) {
	f, err := open(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	return f, nil
}

// stat looks at name itself; ok is false when it is not there.
func stat(dir *os.File, name string) (st unix.Stat_t, ok bool, err error) {
	err = unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return st, false, nil
	}
	if err != nil {
		return st, false, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return st, true, nil
}

func kindOf(st unix.Stat_t) uint32 { return st.Mode & unix.S_IFMT }

func readlink(dir *os.File, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

// names lists a folder, in order.
func names(dir *os.File) ([]string, error) {
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i] = e.Name()
	}
	return sorted(out), nil
}
