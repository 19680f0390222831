package changes

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/rogpeppe/go-internal/diff"
	"golang.org/x/sys/unix"
)

// maxText is the largest file whose lines are compared, in bytes.
const maxText = 1 << 20

// Text returns a change to a file as a unified diff whose names are name, which the caller has made fit to be printed;
// "" for what has no lines to compare: folders, links, files that are large or hold a NUL. The lines are the agent's.
func (s *Set) Text(c Change, name string) (string, error) {
	if c.Refused != "" || c.Kind != Deleted && c.mode&unix.S_IFMT != unix.S_IFREG {
		return "", nil
	}
	oldName, newName := "a/"+name, "b/"+name
	var before, after []byte
	var err error
	if c.Kind == Added {
		oldName = os.DevNull
	} else if before, err = readText(s.folder, c.Path); err != nil {
		return "", err
	}
	if c.Kind == Deleted {
		newName = os.DevNull
	} else if after, err = readText(s.upper, c.Path); err != nil {
		return "", err
	}
	if before == nil && c.Kind != Added || after == nil && c.Kind != Deleted {
		return "", nil
	}
	return string(diff.Diff(oldName, before, newName, after)), nil
}

// readText reads a file of lines; nil is any other.
func readText(top *os.File, name string) ([]byte, error) {
	dir, err := openPath(top, path.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	st, ok, err := stat(dir, path.Base(name))
	if err != nil || !ok || kindOf(st) != unix.S_IFREG || st.Size > maxText {
		return nil, err
	}
	f, err := openFile(dir, path.Base(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxText))
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, err)
	}
	if bytes.IndexByte(text, 0) >= 0 {
		return nil, nil
	}
	if text == nil {
		text = []byte{}
	}
	return text, nil
}
