package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/superserve/superserve/secretd/failpoint"
	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/private"
)

// maxFileKeys is how many keys a file can hold: the store's, and those of changes of
// the key that were interrupted.
const maxFileKeys = 8

// File is a Source: a file of mode 0600 with raw keys of KeySize bytes, usually one. It
// keeps the store's copies (backups, snapshots, other disks) closed, not this host's
// root. While a store changes its key, the file has both.
type File struct {
	Path string
}

// Kind returns "file".
func (File) Kind() string { return "file" }

// New returns the file's key, which is made when there is no file, or with rekey a new
// one that is added to the file. The header is the id of the key.
func (s File) New(_ context.Context, _ string, rekey bool) (key, header []byte, err error) {
	keys, err := s.read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	defer locked.Wipe(keys)
	if len(keys) > 0 && !rekey {
		key = bytes.Clone(keys[:KeySize])
		return key, keyID(key), nil
	}
	if len(keys) >= maxFileKeys*KeySize {
		return nil, nil, fmt.Errorf("make key: %q has %d keys already", s.Path, maxFileKeys)
	}
	key = make([]byte, KeySize)
	_, _ = rand.Read(key)
	all := append(bytes.Clone(keys), key...)
	defer locked.Wipe(all)
	if err := private.Replace(s.Path, all); err != nil {
		locked.Wipe(key)
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	failpoint.Hit("key made")
	return key, keyID(key), nil
}

// Key reads the key with the id header; without a header, as the first version of the
// store had none, the file's only key. It refuses links, other owners and open modes.
func (s File) Key(_ context.Context, _ string, header []byte) ([]byte, error) {
	keys, err := s.read()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the store has no key: %w", err)
	}
	if err != nil {
		return nil, err
	}
	defer locked.Wipe(keys)
	for i := 0; i < len(keys); i += KeySize {
		key := keys[i : i+KeySize]
		if len(header) == 0 && len(keys) == KeySize || bytes.Equal(keyID(key), header) {
			return bytes.Clone(key), nil
		}
	}
	return nil, fmt.Errorf("%q: %w", s.Path, ErrKey)
}

// Retire leaves the file with the key of the id header only, or removes it.
func (s File) Retire(ctx context.Context, header []byte) error {
	if err := private.Sweep(s.Path); err != nil {
		return err
	}
	if header == nil {
		err := os.Remove(s.Path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return errors.Join(err, private.SyncDir(filepath.Dir(s.Path)))
	}
	keys, err := s.read()
	if err != nil || len(keys) == KeySize {
		return err
	}
	locked.Wipe(keys)
	key, err := s.Key(ctx, "", header)
	if err != nil {
		return err
	}
	defer locked.Wipe(key)
	return private.Replace(s.Path, key)
}

// read returns all keys of the file.
func (s File) read() ([]byte, error) {
	f, err := private.Open(s.Path, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	defer f.Close()
	keys := make([]byte, maxFileKeys*KeySize+1)
	n, err := io.ReadFull(f, keys)
	if n == 0 || n%KeySize != 0 || !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		locked.Wipe(keys)
		return nil, fmt.Errorf("read key: %q is not a key of %d bytes", s.Path, KeySize)
	}
	return keys[:n], nil
}

// keyID names a key without telling anything of it: keys are random.
func keyID(key []byte) []byte {
	sum := sha256.Sum256(append([]byte("superserve key id 1\x00"), key...))
	return sum[:16]
}
