package seal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/private"
)

// File is a key-encryption key in a file of mode 0600: raw, KeySize bytes. It keeps
// the store's copies (backups, snapshots, other disks) closed, not this host's root.
type File struct {
	Path string
	// Create allows to make the file with a new key when there is none. It must be
	// false once there are records, or a lost key would be replaced in silence.
	Create bool
}

// Key reads the file, or makes it. It refuses links, other owners and open modes.
func (s File) Key(context.Context) ([]byte, error) {
	f, err := private.Open(s.Path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) && s.Create {
		return s.create()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the store has no key: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	defer f.Close()
	key := make([]byte, KeySize+1)
	n, err := io.ReadFull(f, key)
	if n != KeySize || !errors.Is(err, io.ErrUnexpectedEOF) {
		locked.Wipe(key)
		return nil, fmt.Errorf("read key: %q is not a key of %d bytes", s.Path, KeySize)
	}
	return key[:KeySize], nil
}

func (s File) create() ([]byte, error) {
	key := make([]byte, KeySize)
	_, _ = rand.Read(key)
	if err := private.Create(s.Path, key); err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}
