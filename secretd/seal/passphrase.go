package seal

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"

	"golang.org/x/crypto/argon2"

	"github.com/superserve/superserve/secretd/locked"
)

// MinPassphrase is the shortest passphrase that is taken for a new key, in bytes.
const MinPassphrase = 12

// Passphrase is a Source: a key derived by Argon2id (RFC 9106) from what a person types.
type Passphrase struct {
	// Ask returns a passphrase, which is wiped after use. For a new one it should ask
	// twice.
	Ask func(ctx context.Context, fresh bool) ([]byte, error)
}

// stretch is the cost of a derivation and lies in the store as the header.
type stretch struct {
	Salt    []byte `json:"salt"`
	Passes  uint32 `json:"passes"`
	KiB     uint32 `json:"kib"`
	Threads uint8  `json:"threads"`
}

// The costs of a new key are the second recommendation of RFC 9106, section 4: three
// passes over 64 MiB; 0.15 s on a server's core (2026). A header may ask for at most
// these bounds: the store's files are hostile until the key opened them.
const (
	passes, kib, threads        = 3, 64 << 10, 4
	maxPasses, maxKiB, saltSize = 16, 1 << 20, 16
)

// Kind returns "passphrase".
func (Passphrase) Kind() string { return "passphrase" }

// New asks for a new passphrase and derives a key from it.
func (s Passphrase) New(ctx context.Context, _ string, _ bool) (key, header []byte, err error) {
	with := stretch{Salt: make([]byte, saltSize), Passes: passes, KiB: kib, Threads: threads}
	_, _ = rand.Read(with.Salt)
	if header, err = json.Marshal(with); err != nil {
		return nil, nil, err
	}
	phrase, err := s.Ask(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	defer locked.Wipe(phrase)
	if len(phrase) < MinPassphrase {
		return nil, nil, fmt.Errorf("the passphrase is shorter than %d bytes", MinPassphrase)
	}
	return with.derive(phrase), header, nil
}

// Key asks for the passphrase and derives its key. A wrong one gives a key that does
// not open the store.
func (s Passphrase) Key(ctx context.Context, _ string, header []byte) ([]byte, error) {
	var with stretch
	if err := json.Unmarshal(header, &with); err != nil || !with.sane() {
		return nil, errors.New("its header is damaged")
	}
	phrase, err := s.Ask(ctx, false)
	if err != nil {
		return nil, err
	}
	defer locked.Wipe(phrase)
	return with.derive(phrase), nil
}

// Retire does nothing: the key is in no place but a person's head.
func (Passphrase) Retire(context.Context, []byte) error { return nil }

func (c stretch) sane() bool {
	return len(c.Salt) == saltSize && c.Passes >= 1 && c.Passes <= maxPasses && c.KiB >= 8*uint32(c.Threads) && c.KiB <= maxKiB && c.Threads >= 1
}

func (c stretch) derive(phrase []byte) []byte {
	key := argon2.IDKey(phrase, c.Salt, c.Passes, c.KiB, c.Threads, KeySize)
	debug.FreeOSMemory() // the work area is as large as it is meant to be
	return key
}
