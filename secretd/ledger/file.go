package ledger

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/private"
)

// A slot of an anchor file, in bytes: generation, keyed hash over store and generation.
// There are two, a sector each, written in turn and in place: a power cut in a write
// spoils the one that was not yet promised, and a full disk has nothing to refuse.
const (
	slotSize = 512
	slotUsed = 8 + sha256.Size
)

// File is an Anchor in a file of mode 0600. Whoever restores it together with the store
// is not noticed: it belongs on another disk, or at least out of the store's backups.
// It is safe for concurrent use.
type File struct {
	path string
	key  []byte

	mu sync.Mutex
}

// NewFile returns the anchor at path. The key, which is only read, keeps others from
// writing a number of their own.
func NewFile(path string, key []byte) *File {
	return &File{path: path, key: key}
}

// Load returns the highest generation in the file.
func (a *File) Load(_ context.Context, store string) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f, err := private.Open(a.path, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%w: %w", ErrAnchor, err)
	}
	if err != nil {
		return 0, fmt.Errorf("read anchor: %w", err)
	}
	defer f.Close()
	content := make([]byte, 2*slotSize)
	// What is missing of a file that was cut is zeros, which no key made.
	if _, err := io.ReadFull(f, content); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return 0, fmt.Errorf("read anchor: %w", err)
	}
	var highest uint64
	found := false
	for slot := range 2 {
		if generation, ok := a.parse(content[slot*slotSize:], store); ok {
			highest, found = max(highest, generation), true
		}
	}
	if !found {
		return 0, fmt.Errorf("%w: %q", ErrAnchor, a.path)
	}
	return highest, nil
}

// Save writes generation into its slot, and makes the file when there is none.
func (a *File) Save(_ context.Context, store string, generation uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	f, err := private.Open(a.path, os.O_WRONLY|unix.O_DSYNC)
	if errors.Is(err, fs.ErrNotExist) {
		return a.create(store, generation)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(a.slot(store, generation), int64(generation%2)*slotSize)
	return err
}

func (a *File) create(store string, generation uint64) error {
	content := make([]byte, 2*slotSize)
	copy(content[generation%2*slotSize:], a.slot(store, generation))
	return private.Create(a.path, content)
}

func (a *File) slot(store string, generation uint64) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, slotSize), generation)
	b = append(b, a.mac(store, generation)...)
	return b[:slotSize]
}

func (a *File) parse(slot []byte, store string) (uint64, bool) {
	generation := binary.BigEndian.Uint64(slot)
	return generation, hmac.Equal(slot[8:slotUsed], a.mac(store, generation))
}

func (a *File) mac(store string, generation uint64) []byte {
	h := hmac.New(sha256.New, a.key)
	fmt.Fprintf(h, "superserve anchor 1\x00%s\x00%d", store, generation)
	return h.Sum(nil)
}
