package seal

import (
	"crypto/cipher"
	"encoding/binary"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/superserve/superserve/secretd/locked"
)

// legacyFormat marks the records of a store's first version, whose data keys were
// wrapped under the key file's own key. They are read once, to be sealed anew.
const legacyFormat = 1

type legacy struct{ wrap cipher.AEAD }

func newLegacy(root []byte) (*legacy, error) {
	wrap, err := derived(root, "superserve record wrap 1")
	if err != nil {
		return nil, err
	}
	return &legacy{wrap}, nil
}

func (l *legacy) open(p Place, sealed []byte) ([]byte, error) {
	const boxEnd = 1 + nonceSize + KeySize + chacha20poly1305.Overhead
	if len(sealed) < boxEnd+nonceSize+chacha20poly1305.Overhead {
		return nil, ErrCut
	}
	place := p.associatedLegacy()
	key, err := l.wrap.Open(nil, sealed[1:1+nonceSize], sealed[1+nonceSize:boxEnd], place)
	if err != nil {
		return nil, ErrSealed
	}
	defer locked.Wipe(key)
	data, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, ErrSealed
	}
	plain, err := data.Open(nil, sealed[boxEnd:boxEnd+nonceSize], sealed[boxEnd+nonceSize:], place)
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}

func (p Place) associatedLegacy() []byte {
	b := []byte("superserve record 1\x00")
	for _, s := range [...]string{p.Store, p.Kind, p.Agent, p.Name} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	b = binary.BigEndian.AppendUint64(b, p.Version)
	return append(b, p.Binding[:]...)
}
