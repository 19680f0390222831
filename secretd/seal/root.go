package seal

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/superserve/superserve/secretd/locked"
)

// Source keeps or derives the key that wraps a store's root key. Keys are KeySize bytes
// and the caller's to wipe. A header is what a Source needs besides itself to find the
// key again; it is no secret and lies in the store, at most MaxHeader bytes.
type Source interface {
	// Kind names the source: "file", "passphrase", "credential", "tpm2", "transit".
	Kind() string
	// New returns a key for a store and its header. With rekey it has to be another
	// key than before, as far as the source can make one.
	New(ctx context.Context, store string, rekey bool) (key, header []byte, err error)
	// Key returns the key of a header. The error wraps ErrKey when it is known that
	// the source has another store's key.
	Key(ctx context.Context, store string, header []byte) ([]byte, error)
	// Retire forgets every key but that of the header; a nil header leaves none. It is
	// called after the store was durably sealed under another.
	Retire(ctx context.Context, header []byte) error
}

// MaxHeader is the longest header of a Source, in bytes.
const MaxHeader = 16 << 10

// ErrKey means that a key source has another key than the store's.
var ErrKey = errors.New("the key is not this store's")

// Root is a root key as it lies in the store.
type Root struct {
	Source string    `json:"source"`
	Header []byte    `json:"header,omitempty"`
	Sealed []byte    `json:"sealed"`
	Made   time.Time `json:"made"`
	// Before is the kind of source that wrapped the root key before this one.
	Before string `json:"before,omitempty"`
}

// NewRoot draws a root key, wraps it by a key of src and returns both. The key is the
// caller's to wipe.
func NewRoot(ctx context.Context, src Source, store string, rekey bool) (Root, []byte, error) {
	key, header, err := src.New(ctx, store, rekey)
	if err != nil {
		return Root{}, nil, fmt.Errorf("key source %s: %w", src.Kind(), err)
	}
	defer locked.Wipe(key)
	if len(header) > MaxHeader {
		return Root{}, nil, fmt.Errorf("key source %s: its header has %d bytes, more than %d", src.Kind(), len(header), MaxHeader)
	}
	wrap, err := derived(key, "superserve root wrap 2")
	if err != nil {
		return Root{}, nil, err
	}
	root := make([]byte, KeySize)
	_, _ = rand.Read(root)
	r := Root{Source: src.Kind(), Header: header, Made: time.Now().UTC()}
	r.Sealed = sealInto(nil, wrap, root, r.bound(store))
	return r, root, nil
}

// Open unwraps the root key by the key of src. The key is the caller's to wipe. The
// error wraps ErrKey when the source's key is not the one.
func (r Root) Open(ctx context.Context, src Source, store string) ([]byte, error) {
	if src.Kind() != r.Source {
		return nil, fmt.Errorf("%w: it comes from the key source %q, not %q", ErrKey, r.Source, src.Kind())
	}
	key, err := src.Key(ctx, store, r.Header)
	if err != nil {
		return nil, fmt.Errorf("key source %s: %w", r.Source, err)
	}
	defer locked.Wipe(key)
	wrap, err := derived(key, "superserve root wrap 2")
	if err != nil {
		return nil, err
	}
	if len(r.Sealed) < nonceSize {
		return nil, ErrCut
	}
	root, err := wrap.Open(nil, r.Sealed[:nonceSize], r.Sealed[nonceSize:], r.bound(store))
	if err != nil {
		return nil, fmt.Errorf("key source %s: %w", r.Source, ErrKey)
	}
	return root, nil
}

// bound is what the wrapped key is bound to: who changes the source or its header in
// the store gets no key.
func (r Root) bound(store string) []byte {
	b := []byte("superserve root 2\x00")
	for _, s := range [...]string{store, r.Source, string(r.Header)} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}
