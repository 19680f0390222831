// Package seal encrypts the records of the store. Each record has a data key of its
// own, wrapped by a key-encryption key that never touches the store, and is bound to
// its place: a record that was moved, renamed, rolled to another version or given
// wider hosts does not open.
package seal

import (
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/superserve/superserve/secretd/locked"
)

// KeySize is the length of a key-encryption key, in bytes.
const KeySize = 32

// Source gives the key-encryption key. The key is the caller's to wipe.
type Source interface {
	Key(ctx context.Context) ([]byte, error)
}

// ErrSealed means that a record does not open: another key, another place, or
// changed bytes. Which one it was cannot be told apart.
var ErrSealed = errors.New("record does not open with this key in this place")

// Place is what a record is bound to.
type Place struct {
	Store   string   // the store's id
	Kind    string   // "secret", "grant", "check"
	Agent   string   // "" where there is none
	Name    string   // of the secret or grant
	Version uint64   // counts the values of a secret
	Binding [32]byte // SHA-256 of the binding in JSON
}

// associated encodes a place without ambiguity: every string has its length.
func (p Place) associated() []byte {
	b := []byte("superserve record 1\x00")
	for _, s := range [...]string{p.Store, p.Kind, p.Agent, p.Name} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	b = binary.BigEndian.AppendUint64(b, p.Version)
	return append(b, p.Binding[:]...)
}

// Sealer seals and opens records. It is safe for concurrent use.
type Sealer struct {
	wrap  cipher.AEAD
	audit []byte
}

// The format of a sealed record, in bytes: version, nonce and wrapped data key,
// nonce and ciphertext.
const (
	format  = 1
	wrapped = chacha20poly1305.NonceSizeX + KeySize + chacha20poly1305.Overhead
	least   = 1 + wrapped + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead
)

// New returns a sealer under a key-encryption key, which stays the caller's. The
// key serves only to derive one key a purpose (HKDF, RFC 5869).
func New(kek []byte) (*Sealer, error) {
	if len(kek) != KeySize {
		return nil, fmt.Errorf("key-encryption key has %d bytes, not %d", len(kek), KeySize)
	}
	key, err := hkdf.Key(sha256.New, kek, nil, "superserve record wrap 1", KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	defer locked.Wipe(key)
	audit, err := hkdf.Key(sha256.New, kek, nil, "superserve audit chain 1", KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	// XChaCha20-Poly1305: its 24-byte nonces may be drawn at random for ever, where
	// AES-GCM's 12 bytes need a count of operations.
	wrap, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return &Sealer{wrap: wrap, audit: audit}, nil
}

// AuditKey returns the key of the audit log's chain. It is shared and read-only.
func (s *Sealer) AuditKey() []byte { return s.audit }

// Seal encrypts plain for one place under a new data key. plain stays the caller's.
func (s *Sealer) Seal(p Place, plain []byte) ([]byte, error) {
	var key [KeySize]byte
	defer locked.Wipe(key[:])
	// crypto/rand never fails since Go 1.24: it ends the program instead.
	_, _ = rand.Read(key[:])
	data, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		return nil, fmt.Errorf("seal record: %w", err)
	}
	place := p.associated()
	out := make([]byte, 1, least+len(plain))
	out[0] = format
	out = sealInto(out, s.wrap, key[:], place)
	return sealInto(out, data, plain, place), nil
}

func sealInto(dst []byte, a cipher.AEAD, plain, place []byte) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, chacha20poly1305.NonceSizeX)...)
	_, _ = rand.Read(dst[at:])
	return a.Seal(dst, dst[at:at+chacha20poly1305.NonceSizeX], plain, place)
}

// Open decrypts what Seal made for the same place. The result is the caller's to
// wipe. Every failure is ErrSealed.
func (s *Sealer) Open(p Place, sealed []byte) ([]byte, error) {
	if len(sealed) < least || sealed[0] != format {
		return nil, ErrSealed
	}
	place := p.associated()
	nonce, box := sealed[1:1+chacha20poly1305.NonceSizeX], sealed[1+chacha20poly1305.NonceSizeX:1+wrapped]
	key, err := s.wrap.Open(nil, nonce, box, place)
	if err != nil {
		return nil, ErrSealed
	}
	defer locked.Wipe(key)
	data, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, ErrSealed
	}
	body := sealed[1+wrapped:]
	plain, err := data.Open(nil, body[:chacha20poly1305.NonceSizeX], body[chacha20poly1305.NonceSizeX:], place)
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}
