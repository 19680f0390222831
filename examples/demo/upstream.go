package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// upstream plays api.anthropic.com on loopback. It is safe for concurrent use.
type upstream struct {
	port   int
	caFile string
	server *http.Server
	ended  chan struct{}

	mu   sync.Mutex
	seen []string
}

// startUpstream listens and writes its certificate, which is its own authority, to caFile.
func startUpstream(caFile string) (*upstream, error) {
	certificate, err := selfSigned("api.anthropic.com")
	if err != nil {
		return nil, err
	}
	block := &pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}
	if err := os.WriteFile(caFile, pem.EncodeToMemory(block), 0o644); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{port: l.Addr().(*net.TCPAddr).Port, caFile: caFile, ended: make(chan struct{})}
	u.server = &http.Server{
		Handler: u, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
	}
	go func() {
		defer close(u.ended)
		u.server.ServeTLS(l, "", "")
	}()
	return u, nil
}

func (u *upstream) close() {
	u.server.Close()
	<-u.ended
}

func (u *upstream) requests() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.seen)
}

// ServeHTTP answers a message, or gives the key back, as a careless debugging page would.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("x-api-key")
	u.mu.Lock()
	u.seen = append(u.seen, fmt.Sprintf("%s %s%s   x-api-key: %s", r.Method, r.Host, r.URL.Path, key))
	u.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/v1/echo" {
		json.NewEncoder(w).Encode(map[string]string{"x-api-key": key})
		return
	}
	io.WriteString(w, `{"role":"assistant","content":[{"type":"text","text":"Hello from the other side."}]}`)
}

func selfSigned(host string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "superserve demo"}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
