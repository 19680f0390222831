package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Sweep removes the leaves whose supervisor is dead, with every process in them. It asks alive about each name
// that New was called with; alive must say true before New is called, or a sandbox that is being started is
// swept away.
func Sweep(h Hierarchy, alive func(name string) bool) error {
	dir := filepath.Join(h.Root, parent)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep cgroups: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() && !alive(e.Name()) {
			errs = append(errs, sweep(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func sweep(path string) error {
	l := &Leaf{path: path, v1: map[string]string{}}
	for _, dir := range readRecord(path) {
		l.v1[dir] = dir // which controller it is does not matter any more
	}
	err := l.Close()
	if gone(err) {
		return nil // its supervisor was not dead and has removed it
	}
	return err
}

// readRecord reads what writeRecord wrote. A directory that is not named like the leaf is not believed.
func readRecord(path string) []string {
	b := make([]byte, 8<<10)
	n, err := unix.Getxattr(path, record, b)
	if err != nil {
		return nil
	}
	var dirs []string
	for dir := range strings.SplitSeq(string(b[:n]), "\x00") {
		if strings.HasSuffix(dir, filepath.Join("/", parent, filepath.Base(path))) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}
