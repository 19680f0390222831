// Package ca is the certificate authority of one run. It is made when the run
// starts, its keys never leave the memory of the run's proxy, and it dies with it:
// an agent trusts it, nobody else does.
package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

// Lifetimes. Certificates begin a day in the past, because a sandbox's clock may
// differ from ours. A leaf is made anew when less than renewBefore is left; 90 days
// stays below every client's limit for leaves.
const (
	backdate    = 24 * time.Hour
	caLife      = 5 * 365 * 24 * time.Hour
	leafLife    = 90 * 24 * time.Hour
	renewBefore = 30 * 24 * time.Hour
)

// maxLeaves bounds the cache: an agent chooses the names that it is refused under.
// A leaf and its configs take about 4 KiB.
const maxLeaves = 512

// Authority signs leaves for the local legs of one run. It is safe for concurrent
// use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// leafKey is shared by all leaves: they live and die in one process, and a key
	// of its own for each would only add to the time of a first connection.
	leafKey *ecdsa.PrivateKey
	now     func() time.Time

	mu     sync.Mutex
	leaves map[string]*leaf
	clock  uint64 // counts uses, to find the leaf that was not used for longest
}

type leaf struct {
	cert    *tls.Certificate
	configs map[string]*tls.Config // by the protocol that is negotiated
	used    uint64
}

// New makes an authority: a fresh ECDSA P-256 key and a self-signed certificate
// that may sign leaves only.
func New() (*Authority, error) { return newAuthority(time.Now) }

func newAuthority(now func() time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the authority's key: %w", err)
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the leaves' key: %w", err)
	}
	a := &Authority{key: key, leafKey: leafKey, now: now, leaves: map[string]*leaf{}}
	if a.cert, err = a.selfSign(); err != nil {
		return nil, fmt.Errorf("sign the authority: %w", err)
	}
	return a, nil
}

func (a *Authority) selfSign() (*x509.Certificate, error) {
	id, err := keyID(&a.key.PublicKey)
	if err != nil {
		return nil, err
	}
	template, err := a.template(caLife)
	if err != nil {
		return nil, err
	}
	// The serial in the name keeps the authorities of two runs apart in a client
	// that looks issuers up by name.
	template.Subject = pkix.Name{Organization: []string{"superserve"}, CommonName: fmt.Sprintf("superserve run %x", id[:6])}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.MaxPathLen, template.MaxPathLenZero = 0, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	template.SubjectKeyId, template.AuthorityKeyId = id, id
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// template holds what all our certificates share: a random serial of 127 bits
// (RFC 5280 §4.1.2.2) and the times.
func (a *Authority) template(life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := a.now()
	return &x509.Certificate{SerialNumber: serial, NotBefore: now.Add(-backdate), NotAfter: now.Add(life)}, nil
}

// keyID is method 1 of RFC 5280 §4.2.1.2. It is a name, not a signature, so SHA-1
// is right: OpenSSL and Java compare it and expect its 20 bytes.
func keyID(key *ecdsa.PublicKey) ([]byte, error) {
	point, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum(point)
	return sum[:], nil
}

// DER returns the authority's certificate. The caller must not change it.
func (a *Authority) DER() []byte { return a.cert.Raw }

// PEM returns the authority's certificate in PEM form.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// Leaf returns a certificate for name, a host name or an IP literal, from the
// cache or freshly signed (0.14 ms, 2026-11-23). The caller must not change it.
func (a *Authority) Leaf(name string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l, err := a.leaf(name)
	if err != nil {
		return nil, err
	}
	return l.cert, nil
}

// leaf is called with mu held: two connections for a new name make one leaf.
func (a *Authority) leaf(name string) (*leaf, error) {
	a.clock++
	if l := a.leaves[name]; l != nil && a.now().Add(renewBefore).Before(l.cert.Leaf.NotAfter) {
		l.used = a.clock
		return l, nil
	}
	cert, err := a.sign(name)
	if err != nil {
		return nil, fmt.Errorf("sign a leaf for %q: %w", name, err)
	}
	if len(a.leaves) >= maxLeaves {
		a.evict()
	}
	l := &leaf{cert: cert, configs: map[string]*tls.Config{}, used: a.clock}
	a.leaves[name] = l
	return l, nil
}

func (a *Authority) evict() {
	oldest, used := "", uint64(1<<64-1)
	for name, l := range a.leaves {
		if l.used < used {
			oldest, used = name, l.used
		}
	}
	delete(a.leaves, oldest)
}

func (a *Authority) sign(name string) (*tls.Certificate, error) {
	template, err := a.template(leafLife)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	// A common name holds at most 64 bytes (RFC 5280 appendix A.1); clients have
	// not read it for years, people do.
	if len(name) <= 64 {
		template.Subject.CommonName = name
	}
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.AuthorityKeyId = a.cert.SubjectKeyId
	if template.SubjectKeyId, err = keyID(&a.leafKey.PublicKey); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.leafKey.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.leafKey, Leaf: parsed}, nil
}
