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

// snapshot copies the project's files from one directory to another, empty one. Folders, regular files
// and symlinks are copied; a symlink is copied as it is and never followed, so that what it points to
// is looked up inside the sandbox, where no file of the host is behind it. The two os.Roots see to it
// that a project that changes while it is read cannot lead the copy out of either.
func snapshot(ctx context.Context, from, to *os.Root, ig *Ignore) (Snapshot, error) {
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
	from, to *os.Root
	done     Snapshot
}

func (c *copier) copy(name string, d fs.DirEntry) error {
	info, err := d.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since its folder was read
	}
	if err != nil {
		return err
	}
	if c.done.Files++; c.done.Files > maxFiles {
		return fmt.Errorf("more than %d files: leave some out with `ignore` in %s", maxFiles, ManifestName)
	}
	switch {
	case info.IsDir():
		return c.to.Mkdir(name, 0o700|info.Mode().Perm())
	case info.Mode().IsRegular():
		return c.copyFile(name)
	case info.Mode()&fs.ModeSymlink != 0:
		return c.copyLink(name)
	}
	c.done.Files--
	if len(c.done.Special) < 10 {
		c.done.Special = append(c.done.Special, name)
	}
	return nil
}

func (c *copier) copyLink(name string) error {
	target, err := c.from.Readlink(name)
	if err != nil {
		return err
	}
	return c.to.Symlink(target, name)
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
	out, err := c.to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode().Perm())
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(in, maxBytes-c.done.Bytes+1))
	c.done.Bytes += n
	if err == nil && c.done.Bytes > maxBytes {
		err = fmt.Errorf("more than %d GiB: leave some out with `ignore` in %s", maxBytes>>30, ManifestName)
	}
	return errors.Join(err, out.Close())
}
