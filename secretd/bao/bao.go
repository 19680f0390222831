// Package bao calls the HTTP API of an OpenBao or Vault server, which is the same in both.
package bao

import (
	"bytes"
	"context"
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
	timeout = 10 * time.Second
	// maxReply, maxComplaint and maxToken are in bytes.
	maxReply     = 2 << 20
	maxComplaint = 4 << 10
	maxToken     = 8 << 10
)

// Server is where a server is and by what it lets us in.
type Server struct {
	// Address is https://HOST:PORT; http is taken for a loopback address only.
	Address string
	// Namespace is sent as X-Vault-Namespace when it is not "".
	Namespace string
	// TokenFile holds the token: a file of mode 0600, or a systemd credential. It is read
	// anew for each call, so that an agent may renew it.
	TokenFile string
	// CAFile is a PEM file of the roots to trust; "" is the system's.
	CAFile string
}

// Check tells whether the fields can be what they should.
func (s Server) Check() error {
	u, err := url.Parse(s.Address)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "":
		return fmt.Errorf("address %q is not https://HOST:PORT", s.Address)
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

// ErrReply means that an answer was not the API's.
var ErrReply = errors.New("the answer is not the API's")

// Call makes one request to /v1/ and path, whose parts are escaped already, with body in
// JSON, nil for none. It returns the status; with 200, the member data of the answer is
// decoded into reply, unless that is nil. The text of an answer is in no error.
func (s Server) Call(ctx context.Context, method, path string, body, reply any) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var content []byte
	if body != nil {
		if content, err = json.Marshal(body); err != nil {
			return 0, err
		}
		defer locked.Wipe(content)
	}
	req, err := s.request(ctx, method, path, content)
	if err != nil {
		return 0, err
	}
	transport, err := s.transport()
	if err != nil {
		return 0, err
	}
	defer transport.CloseIdleConnections()
	// RoundTrip, not Client.Do: a redirect must not carry the token elsewhere.
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusInternalServerError {
		return complaint(resp.Body), nil
	}
	if resp.StatusCode != http.StatusOK || reply == nil {
		return resp.StatusCode, nil
	}
	return resp.StatusCode, decode(resp.Body, reply)
}

// complaint returns the status that a server should have given in place of 500: integrated
// storage has none of its own for what is too long for it.
func complaint(body io.Reader) (status int) {
	text, _ := io.ReadAll(io.LimitReader(body, maxComplaint))
	if bytes.Contains(text, []byte("due to value being too large")) {
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusInternalServerError
}

func decode(body io.Reader, reply any) error {
	answer, err := io.ReadAll(io.LimitReader(body, maxReply))
	defer locked.Wipe(answer)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	var whole struct {
		Data json.RawMessage `json:"data"`
	}
	defer func() { locked.Wipe(whole.Data) }()
	if json.Unmarshal(answer, &whole) != nil || json.Unmarshal(whole.Data, reply) != nil {
		return ErrReply
	}
	return nil
}

// Refusal words a status; what the server says itself stays out of errors.
func Refusal(status int) error {
	switch status {
	case http.StatusForbidden:
		return errors.New("status 403: the token may not do this")
	case http.StatusNotFound:
		return errors.New("status 404: no such engine or key")
	case http.StatusServiceUnavailable:
		return errors.New("status 503: the server is sealed or in maintenance")
	}
	return fmt.Errorf("status %d", status)
}

func (s Server) request(ctx context.Context, method, path string, content []byte) (*http.Request, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	token, err := s.token()
	if err != nil {
		return nil, err
	}
	defer locked.Wipe(token)
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.Address, "/")+"/v1/"+path, bytes.NewReader(content))
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

func (s Server) token() ([]byte, error) {
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

func (s Server) transport() (*http.Transport, error) {
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
