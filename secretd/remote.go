package secretd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/private"
)

const (
	// handshakeTimeout bounds what somebody without a certificate can hold a slot for.
	handshakeTimeout = 5 * time.Second
	// maxPEM is the longest certificate file that is read, in bytes.
	maxPEM = 1 << 20
)

// Remote says how admins on other hosts reach the daemon: by HTTPS with certificates on
// both sides, for the verbs of the admin socket but grants, which are descriptors. The
// zero value is no such way.
type Remote struct {
	// Address is HOST:PORT to listen on.
	Address string
	// Cert and Key are PEM files: the daemon's chain and its key, of mode 0600. ClientCA
	// is the PEM file of the authorities of clients. They are read anew when they change;
	// while Cert and Key do not fit, what was read before is used on, and without
	// authorities nobody is let in.
	Cert, Key, ClientCA string
	// Admins are the names, DNS names or the common name, of the certificates that may. A
	// certificate of the authority with none of them is refused; without Admins all are.
	Admins []string
}

// Listen opens the address, after it has read the files once.
func (r Remote) Listen(log *zap.Logger) (net.Listener, error) {
	if len(r.Admins) == 0 {
		return nil, errors.New("remote administration: nobody may: name the certificates that may")
	}
	files := &tlsFiles{paths: [3]string{r.Cert, r.Key, r.ClientCA}, log: log}
	if err := files.load(); err != nil {
		return nil, fmt.Errorf("remote administration: %w", err)
	}
	l, err := net.Listen("tcp", r.Address)
	if err != nil {
		return nil, fmt.Errorf("remote administration: %w", err)
	}
	return tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS13,
		// A ticket would let in a client whose authority was taken away meanwhile.
		SessionTicketsDisabled: true,
		GetConfigForClient:     func(*tls.ClientHelloInfo) (*tls.Config, error) { return files.current(), nil },
	}), nil
}

// identify makes the handshake and returns who holds the certificate.
func (r Remote) identify(ctx context.Context, conn net.Conn) (caller, error) {
	c, ok := conn.(*tls.Conn)
	if !ok {
		return caller{}, errors.New("not TLS")
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return caller{}, err
	}
	chains := c.ConnectionState().VerifiedChains
	if len(chains) == 0 { // crypto/tls has refused it already
		return caller{}, errors.New("no verified certificate")
	}
	leaf := chains[0][0]
	for _, name := range append(slices.Clone(leaf.DNSNames), leaf.Subject.CommonName) {
		if name != "" && slices.Contains(r.Admins, name) {
			return caller{remote: name + "@" + conn.RemoteAddr().String()}, nil
		}
	}
	return caller{}, fmt.Errorf("this certificate is not one that may: %w", api.ErrDenied)
}

// tlsFiles keeps a TLS configuration as its files say. It is safe for concurrent use.
type tlsFiles struct {
	paths [3]string // certificate, key, authorities
	log   *zap.Logger

	mu     sync.Mutex
	stamps [3]stamp // of the last attempt
	config *tls.Config
	// certificate is the last that fitted its key.
	certificate tls.Certificate
}

// stamp tells two states of a file apart.
type stamp struct {
	modified time.Time
	size     int64
	file     os.FileInfo
}

func (f *tlsFiles) look() (s [3]stamp) {
	for i, path := range f.paths {
		if info, err := os.Stat(path); err == nil {
			s[i] = stamp{info.ModTime(), info.Size(), info}
		}
	}
	return s
}

func unchanged(a, b [3]stamp) bool {
	return slices.EqualFunc(a[:], b[:], func(a, b stamp) bool {
		return a.modified.Equal(b.modified) && a.size == b.size && (a.file == nil) == (b.file == nil) && (a.file == nil || os.SameFile(a.file, b.file))
	})
}

// current returns the configuration of the files as they are, or as they last fitted.
func (f *tlsFiles) current() *tls.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.look(); !unchanged(now, f.stamps) {
		if err := f.read(); err != nil {
			f.log.Error("cannot take over new certificates", zap.Error(err))
		}
		f.stamps = now
	}
	return f.config
}

func (f *tlsFiles) load() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stamps = f.look()
	return f.read()
}

// read takes over what fits. An authority that is taken out is out whatever the other
// files are like, and where there is no file of authorities nobody comes in.
func (f *tlsFiles) read() error {
	pair, failed := f.pair()
	if failed == nil {
		f.certificate = pair
	}
	authorities := x509.NewCertPool() // nil would be the system's
	text, err := readPEM(f.paths[2])
	if err == nil && !authorities.AppendCertsFromPEM(text) {
		err = fmt.Errorf("%q has no certificate", f.paths[2])
	}
	f.config = &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{f.certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: authorities,
	}
	return errors.Join(failed, err)
}

// pair reads the certificate and its key.
func (f *tlsFiles) pair() (tls.Certificate, error) {
	cert, err := readPEM(f.paths[0])
	if err != nil {
		return tls.Certificate{}, err
	}
	file, err := private.Open(f.paths[1], os.O_RDONLY)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read key: %w", err)
	}
	defer file.Close()
	key, err := io.ReadAll(io.LimitReader(file, maxPEM))
	defer locked.Wipe(key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate %q and key %q do not fit: %w", f.paths[0], f.paths[1], err)
	}
	return pair, nil
}

func readPEM(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPEM))
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	return text, nil
}
