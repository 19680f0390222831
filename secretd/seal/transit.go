package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/private"
)

const (
	transitTimeout = 10 * time.Second
	// maxTransitReply and maxToken are in bytes.
	maxTransitReply = 64 << 10
	maxToken        = 8 << 10
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
	ctx, cancel := context.WithTimeout(ctx, transitTimeout)
	defer cancel()
	content, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	defer locked.Wipe(content)
	req, err := s.request(ctx, verb, content)
	if err != nil {
		return err
	}
	transport, err := s.transport()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	// RoundTrip, not Client.Do: a redirect must not carry the token elsewhere.
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %w", verb, refusal(verb, resp.StatusCode))
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxTransitReply))
	defer locked.Wipe(answer)
	if err != nil {
		return fmt.Errorf("%s: read answer: %w", verb, err)
	}
	var whole struct {
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(answer, &whole) != nil || json.Unmarshal(whole.Data, reply) != nil {
		return fmt.Errorf("%s: the answer is not the transit engine's", verb)
	}
	locked.Wipe(whole.Data)
	return nil
}

// refusal words a status of the API; the server's own text stays out of errors.
func refusal(verb string, status int) error {
	switch {
	case status == http.StatusBadRequest && verb == "decrypt":
		return fmt.Errorf("status 400: %w", ErrKey)
	case status == http.StatusForbidden:
		return errors.New("status 403: the token may not do this")
	case status == http.StatusNotFound:
		return errors.New("status 404: no such engine or key")
	case status == http.StatusServiceUnavailable:
		return errors.New("status 503: the server is sealed or in maintenance")
	}
	return fmt.Errorf("status %d", status)
}

func (s Transit) request(ctx context.Context, verb string, content []byte) (*http.Request, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	token, err := s.token()
	if err != nil {
		return nil, err
	}
	defer locked.Wipe(token)
	target := strings.TrimSuffix(s.Address, "/") + "/v1/" + s.Mount + "/" + verb + "/" + url.PathEscape(s.Name)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", s.Address, err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Vault-Request", "true")
	req.Header.Set("X-Vault-Token", string(token)) // short-lived, unlike what it opens
	if s.Namespace != "" {
		req.Header.Set("X-Vault-Namespace", s.Namespace)
	}
	return req, nil
}

func (s Transit) check() error {
	u, err := url.Parse(s.Address)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "":
		return fmt.Errorf("address %q is not https://HOST:PORT", s.Address)
	case s.Mount == "" || s.Name == "":
		return errors.New("the mount and the name of the key are missing")
	case s.TokenFile == "":
		return errors.New("the file with the token is missing")
	case u.Scheme == "https":
		return nil
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if u.Scheme != "http" || err != nil || !addr.IsLoopback() {
		return fmt.Errorf("address %q: keys travel by https, or http to a loopback address", s.Address)
	}
	return nil
}

func (s Transit) token() ([]byte, error) {
	f, err := private.Open(s.TokenFile, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("read token: %w", err)
	}
	defer f.Close()
	raw := make([]byte, maxToken)
	n, err := io.ReadFull(f, raw)
	token := bytes.TrimSpace(raw[:n])
	if !errors.Is(err, io.ErrUnexpectedEOF) || len(token) == 0 || bytes.ContainsAny(token, "\r\n") {
		locked.Wipe(raw)
		return nil, fmt.Errorf("%q holds no token", s.TokenFile)
	}
	return token, nil
}

func (s Transit) transport() (*http.Transport, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read roots: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%q holds no certificate", s.CAFile)
		}
	}
	// No proxy of the environment: secretd trusts what it was told, not its variables.
	return &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10}, nil
}
