package journal

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/superserve/superserve/secretd/private"
)

// keyFile is the master key's file in the directory of the logs, in hex.
const (
	keyFile    = "key"
	masterSize = 32 // bytes
)

// Key is the master key of a directory of logs. Who has it can make and check chains
// and seals; it belongs to root, and no process that serves an agent gets it. It is
// safe for concurrent use.
type Key struct{ master [masterSize]byte }

// OpenKey reads the key of a directory of mode 0700, or makes it there when there is
// none yet.
func OpenKey(dir string) (*Key, error) {
	k, err := ReadKey(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	fresh := make([]byte, masterSize)
	rand.Read(fresh)
	err = private.Create(filepath.Join(dir, keyFile), append(hex.AppendEncode(nil, fresh), '\n'))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the audit key: %w", err)
	}
	return ReadKey(dir)
}

// ReadKey reads the key of a directory. The error wraps fs.ErrNotExist when there is
// none.
func ReadKey(dir string) (*Key, error) {
	f, err := private.Open(filepath.Join(dir, keyFile), os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("read the audit key: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return nil, fmt.Errorf("read the audit key: %w", err)
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(raw) != masterSize {
		return nil, fmt.Errorf("read the audit key: %s is damaged", f.Name())
	}
	k := &Key{}
	copy(k.master[:], raw)
	return k, nil
}

// Chain returns the first key of the chain of the log of that name.
func (k *Key) Chain(log string) [KeySize]byte {
	key := k.derive("chain\x00" + log)
	return [KeySize]byte(key[:KeySize])
}

// Public returns the key that checks seals.
func (k *Key) Public() ed25519.PublicKey {
	return k.signer().Public().(ed25519.PublicKey)
}

func (k *Key) signer() ed25519.PrivateKey {
	seed := k.derive("seal")
	return ed25519.NewKeyFromSeed(seed[:])
}

func (k *Key) derive(what string) (out [masterSize]byte) {
	h := hmac.New(sha256.New, k.master[:])
	h.Write([]byte(what))
	h.Sum(out[:0])
	return out
}
