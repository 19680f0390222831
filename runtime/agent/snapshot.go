package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// Limits of one deployment: far above a project, below what fills a disk by mistake.
const (
	maxFiles = 200_000
	maxBytes = 4 << 30
)

// Snapshot says what a deployment copied and what it left out.
type Snapshot struct {
	Files   int      `json:"files"`
	Bytes   int64    `json:"bytes"`
	Special []string `json:"-"` // sockets, pipes and devices, at most 10 names; not copied
}

// sink takes the files of a project, each folder before what is in it. Names are slash-separated and local.
type sink interface {
	mkdir(name string, mode fs.FileMode) error
	symlink(target, name string) error
	// file takes a regular file of at most size bytes, and returns how many it took.
	file(name string, mode fs.FileMode, size int64, from io.Reader) (int64, error)
}

// snapshot copies a project's files. Folders, regular files
// and symlinks are copied; a symlink is copied as it is and never followed, so that what it points to
// is looked up inside the sandbox, where no file of the host is behind it. The os.Root sees to it
// that a project that changes while it is read cannot lead the copy out.
func snapshot(ctx context.Context, from *os.Root, to sink, ig *Ignore) (Snapshot, error) {
	c := copier{from: from, to: to}
	err := fs.WalkDir(from.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || name == "." {
			return err
		}
		if ig.Skip(name, d.IsDir()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return c.copy(name, d)
	})
	if err != nil {
		return c.done, fmt.Errorf("snapshot: %w", err)
	}
	return c.done, nil
}

// copier holds the state of one snapshot.
type copier struct {
	from *os.Root
	to   sink
	done Snapshot
}

func (c *copier) copy(name string, d fs.DirEntry) error {
	info, err := d.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since its folder was read
	}
	if err != nil {
		return err
	}
	if err := c.done.count(); err != nil {
		return err
	}
	switch {
	case info.IsDir():
		return c.to.mkdir(name, info.Mode().Perm())
	case info.Mode().IsRegular():
		return c.copyFile(name)
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := c.from.Readlink(name)
		if err != nil {
			return err
		}
		return c.to.symlink(target, name)
	}
	c.done.Files--
	if len(c.done.Special) < 10 {
		c.done.Special = append(c.done.Special, name)
	}
	return nil
}

// count counts one file more.
func (s *Snapshot) count() error {
	if s.Files++; s.Files > maxFiles {
		return fmt.Errorf("more than %d files: leave some out with `ignore` in %s", maxFiles, ManifestName)
	}
	return nil
}

// add counts the bytes of a file.
func (s *Snapshot) add(n int64) error {
	if s.Bytes += n; s.Bytes > maxBytes {
		return fmt.Errorf("more than %d GiB: leave some out with `ignore` in %s", maxBytes>>30, ManifestName)
	}
	return nil
}

// copyFile copies a regular file and its permission bits; set-uid and the like do not travel.
// O_NONBLOCK keeps a pipe that took the file's place from holding us.
func (c *copier) copyFile(name string) error {
	in, err := c.from.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s changed while it was copied", path.Base(name))
	}
	n, err := c.to.file(name, info.Mode().Perm(), info.Size(), io.LimitReader(in, maxBytes-c.done.Bytes+1))
	return errors.Join(err, c.done.add(n))
}

// folder is a sink that is a folder, empty at first. Nothing is written over, and no link followed out of it.
type folder struct{ root *os.Root }

func (f folder) mkdir(name string, mode fs.FileMode) error { return f.root.Mkdir(name, 0o700|mode) }

func (f folder) symlink(target, name string) error { return f.root.Symlink(target, name) }

func (f folder) file(name string, mode fs.FileMode, _ int64, from io.Reader) (int64, error) {
	out, err := f.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, from)
	return n, errors.Join(err, out.Close())
}
