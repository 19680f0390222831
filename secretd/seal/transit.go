package seal

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/superserve/superserve/secretd/bao"
	"github.com/superserve/superserve/secretd/locked"
)

// Transit is a Source: the transit engine of an OpenBao or Vault server, which wraps a
// key that is drawn here and never gets the store. Its HTTP API is the same in both:
// POST /v1/MOUNT/encrypt/NAME and /decrypt/NAME with associated_data (Vault 1.13,
// OpenBao 2.0). The key NAME has to be an AEAD without derivation, as by default. The
// server is asked once, at the start of the daemon.
type Transit struct {
	// Address is https://HOST:PORT; http is taken for a loopback address only.
	Address string
	// Mount and Name are the engine's path and the key's name.
	Mount, Name string
	// Namespace is sent as X-Vault-Namespace when it is not "".
	Namespace string
	// TokenFile holds the token: a file of mode 0600, or a systemd credential.
	TokenFile string
	// CAFile is a PEM file of the roots to trust; "" is the system's.
	CAFile string
}

// wrappedKey is the header.
type wrappedKey struct {
	Ciphertext string `json:"ciphertext"`
}

// Kind returns "transit".
func (Transit) Kind() string { return "transit" }

// New draws a key and has the server wrap it.
func (s Transit) New(ctx context.Context, store string, _ bool) (key, header []byte, err error) {
	key = make([]byte, KeySize)
	_, _ = rand.Read(key)
	var reply wrappedKey
	err = s.call(ctx, "encrypt", map[string][]byte{"plaintext": key, "associated_data": transitBound(store)}, &reply)
	if err == nil && !strings.HasPrefix(reply.Ciphertext, "vault:v") {
		err = errors.New("encrypt: the answer holds no ciphertext")
	}
	if err == nil {
		header, err = json.Marshal(reply)
	}
	if err != nil {
		locked.Wipe(key)
		return nil, nil, err
	}
	return key, header, nil
}

// Key has the server unwrap the key of a header. The error wraps ErrKey when the server
// says that the ciphertext is not its key's.
func (s Transit) Key(ctx context.Context, store string, header []byte) ([]byte, error) {
	var wrapped wrappedKey
	if err := json.Unmarshal(header, &wrapped); err != nil {
		return nil, errors.New("its header is damaged")
	}
	var reply struct {
		Plaintext []byte `json:"plaintext"`
	}
	body := map[string]any{"ciphertext": wrapped.Ciphertext, "associated_data": transitBound(store)}
	if err := s.call(ctx, "decrypt", body, &reply); err != nil {
		return nil, err
	}
	if len(reply.Plaintext) != KeySize {
		locked.Wipe(reply.Plaintext)
		return nil, fmt.Errorf("decrypt: not a key of %d bytes: %w", KeySize, ErrKey)
	}
	return reply.Plaintext, nil
}

// Retire does nothing: the wrapped key lies in the store alone.
func (Transit) Retire(context.Context, []byte) error { return nil }

func transitBound(store string) []byte { return []byte("superserve store " + store) }

// call makes one request and decodes the member data of its answer into reply.
func (s Transit) call(ctx context.Context, verb string, body, reply any) error {
	if s.Mount == "" || s.Name == "" {
		return errors.New("the mount and the name of the key are missing")
	}
	server := bao.Server{Address: s.Address, Namespace: s.Namespace, TokenFile: s.TokenFile, CAFile: s.CAFile}
	status, err := server.Call(ctx, http.MethodPost, s.Mount+"/"+verb+"/"+url.PathEscape(s.Name), body, reply)
	switch {
	case errors.Is(err, bao.ErrReply):
		return fmt.Errorf("%s: the answer is not the transit engine's", verb)
	case err != nil:
		return fmt.Errorf("%s: %w", verb, err)
	case status == http.StatusBadRequest && verb == "decrypt":
		return fmt.Errorf("%s: status 400: %w", verb, ErrKey)
	case status != http.StatusOK:
		return fmt.Errorf("%s: %w", verb, bao.Refusal(status))
	}
	return nil
}
