// Package seal encrypts the records of the store. Each record has a data key of its
// own, wrapped by a key of the store's root key, and is bound to its place: a record
// that was moved, renamed, rolled to another version or given wider hosts does not
// open. The root key lies in the store, wrapped by the key of a Source.
package seal

import (
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

// KeySize is the length of every key, in bytes.
const KeySize = 32

// The reasons why a record does not open. Each of the later ones wraps ErrSealed.
var (
	// ErrSealed means that a record was changed, or sealed by another key: which of
	// them cannot be told apart.
	ErrSealed = errors.New("record does not open: it was changed, or sealed by another key")
	// ErrCut means that the end of a record is missing.
	ErrCut = reason("record is cut short")
	// ErrMoved means that a record was sealed for another store, agent or name.
	ErrMoved = reason("record was moved here from another place")
	// ErrRenumbered means that the version beside a record is not the one it was
	// sealed with.
	ErrRenumbered = reason("version was changed outside secretd")
	// ErrBinding means that the hosts or places beside a record are not those it was
	// sealed with.
	ErrBinding = reason("binding was changed outside secretd")
)

// reason is an error that is also ErrSealed.
type reason string

func (r reason) Error() string        { return string(r) }
func (r reason) Is(target error) bool { return target == ErrSealed }

// Place is what a record is bound to.
type Place struct {
	Store   string   // the store's id
	Kind    string   // "secret", "grant", "head" …
	Agent   string   // "" where there is none
	Name    string   // of the secret or grant
	Version uint64   // counts the values of a secret
	Binding [32]byte // SHA-256 of the binding in JSON
}

// home encodes where a record belongs, without ambiguity: every string has its length.
func (p Place) home() []byte {
	b := []byte("superserve record 2\x00")
	for _, s := range [...]string{p.Store, p.Kind, p.Agent, p.Name} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}

// The format of a sealed record, in bytes: format, nonce and box, nonce and ciphertext.
// The box holds the data key and a label, so that a record that is whole but in the
// wrong place can be refused by the right words: SHA-256 of the place's home, version,
// binding, length of the plain text.
const (
	format    = 2
	nonceSize = chacha20poly1305.NonceSizeX
	labelSize = sha256.Size + 8 + sha256.Size + 4
	boxSize   = KeySize + labelSize + chacha20poly1305.Overhead
	bodyAt    = 1 + nonceSize + boxSize
	least     = bodyAt + nonceSize + chacha20poly1305.Overhead
)

// label is what the box says of a record with a plain text of n bytes.
func (p Place) label(n int) []byte {
	home := sha256.Sum256(p.home())
	b := binary.BigEndian.AppendUint64(home[:], p.Version)
	b = append(b, p.Binding[:]...)
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// Sealer seals and opens records. It is safe for concurrent use.
type Sealer struct {
	wrap   cipher.AEAD
	before *legacy
	audit  []byte
	ledger []byte
}

// New returns a sealer under a root key, which stays the caller's. The root key serves
// only to derive one key a purpose (HKDF, RFC 5869).
func New(root []byte) (*Sealer, error) {
	if len(root) != KeySize {
		return nil, fmt.Errorf("root key has %d bytes, not %d", len(root), KeySize)
	}
	s := &Sealer{}
	var err error
	// XChaCha20-Poly1305: its 24-byte nonces may be drawn at random for ever, where
	// AES-GCM's 12 bytes need a count of operations.
	if s.wrap, err = derived(root, "superserve record wrap 2"); err != nil {
		return nil, err
	}
	if s.before, err = newLegacy(root); err != nil {
		return nil, err
	}
	if s.audit, err = hkdf.Key(sha256.New, root, nil, "superserve audit chain 1", KeySize); err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	if s.ledger, err = hkdf.Key(sha256.New, root, nil, "superserve ledger 1", KeySize); err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return s, nil
}

func derived(root []byte, purpose string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, root, nil, purpose, KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	defer locked.Wipe(key)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return aead, nil
}

// AuditKey returns the key that the audit log's chain begins its life with; a store
// keeps it when its root key changes. It is shared and read-only.
func (s *Sealer) AuditKey() []byte { return s.audit }

// LedgerKey returns the key of the sum over all records. It is shared and read-only.
func (s *Sealer) LedgerKey() []byte { return s.ledger }

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
	label := p.label(len(plain))
	box := append(key[:], label...)
	defer locked.Wipe(box)
	out := make([]byte, 1, least+len(plain))
	out[0] = format
	out = sealInto(out, s.wrap, box, out[:1])
	return sealInto(out, data, plain, label), nil
}

func sealInto(dst []byte, a cipher.AEAD, plain, bound []byte) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, nonceSize)...)
	_, _ = rand.Read(dst[at:])
	return a.Seal(dst, dst[at:at+nonceSize], plain, bound)
}

// Open decrypts what Seal made for the same place. The result is the caller's to
// wipe. Every failure is ErrSealed, and where that can be known one of its kinds.
func (s *Sealer) Open(p Place, sealed []byte) ([]byte, error) {
	switch {
	case len(sealed) == 0:
		return nil, ErrCut
	case sealed[0] == legacyFormat:
		return s.before.open(p, sealed)
	case sealed[0] != format:
		return nil, ErrSealed
	case len(sealed) < least:
		return nil, ErrCut
	}
	box, err := s.wrap.Open(nil, sealed[1:1+nonceSize], sealed[1+nonceSize:bodyAt], sealed[:1])
	if err != nil {
		return nil, ErrSealed
	}
	defer locked.Wipe(box)
	key, label, body := box[:KeySize], box[KeySize:], sealed[bodyAt:]
	if err := p.judge(label, len(body)-nonceSize-chacha20poly1305.Overhead); err != nil {
		return nil, err
	}
	data, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, ErrSealed
	}
	plain, err := data.Open(nil, body[:nonceSize], body[nonceSize:], label)
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}

// judge compares the label of a record with the place where it was found.
func (p Place) judge(label []byte, n int) error {
	const versionAt, bindingAt, lengthAt = sha256.Size, sha256.Size + 8, labelSize - 4
	want := p.label(n)
	switch {
	case string(label[:versionAt]) != string(want[:versionAt]):
		return ErrMoved
	case string(label[versionAt:bindingAt]) != string(want[versionAt:bindingAt]):
		return ErrRenumbered
	case string(label[bindingAt:lengthAt]) != string(want[bindingAt:lengthAt]):
		return ErrBinding
	case binary.BigEndian.Uint32(label[lengthAt:]) != uint32(n):
		return ErrCut
	}
	return nil
}
