//go:build e2e

package e2e

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
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// seen is one request as it arrived upstream.
type seen struct {
	Host, Method, Path, Proto string
	Header                    http.Header
	Body                      string
}

// upstream is a TLS server on loopback, HTTP/1.1 and HTTP/2, under a test CA. It is safe for concurrent
// use.
type upstream struct {
	hosts  []string
	port   int
	caFile string
	extra  map[string]http.Handler // by host, ahead of the vendors' answers
	during func()                  // runs while a request waits for its answer

	mu   sync.Mutex
	reqs []seen
}

func newUpstream(t testing.TB, hosts ...string) *upstream {
	t.Helper()
	ca, key, certificate := authority(t)
	u := &upstream{hosts: hosts, caFile: filepath.Join(t.TempDir(), "ca.pem"), extra: map[string]http.Handler{}}
	if err := os.WriteFile(u.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.port = l.Addr().(*net.TCPAddr).Port
	server := &http.Server{
		Handler:   u,
		ErrorLog:  log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{leaf(t, ca, key, hosts)}},
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	return u
}

func authority(t testing.TB) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e upstream CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return ca, key, der
}

func leaf(t testing.TB, ca *x509.Certificate, caKey *ecdsa.PrivateKey, hosts []string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "e2e upstream"}, DNSNames: hosts,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// ServeHTTP records the request and answers as the vendor would.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := []byte(nil)
	if u.extra[r.Host] == nil {
		body, _ = io.ReadAll(io.LimitReader(r.Body, 8<<20))
	}
	u.mu.Lock()
	u.reqs = append(u.reqs, seen{r.Host, r.Method, r.URL.RequestURI(), r.Proto, r.Header.Clone(), string(body)})
	u.mu.Unlock()
	if u.during != nil {
		u.during()
	}
	switch {
	case u.extra[r.Host] != nil:
		u.extra[r.Host].ServeHTTP(w, r)
	case strings.HasSuffix(r.URL.Path, "/messages"):
		anthropic(w, body)
	case strings.HasSuffix(r.URL.Path, "/chat/completions"):
		openai(w)
	default:
		echo(w, r, body)
	}
}

// requests returns what arrived so far.
func (u *upstream) requests() []seen {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.reqs)
}

// echo gives the request's headers and body back, the way to steal a key from behind a proxy.
func echo(w http.ResponseWriter, r *http.Request, body []byte) {
	for name, values := range r.Header {
		for _, v := range values {
			w.Header().Add("X-Echo-"+name, v)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"ok": true, "headers": r.Header, "body": string(body)})
}

// anthropic plays POST /v1/messages, as one answer or as a stream of events.
func anthropic(w http.ResponseWriter, body []byte) {
	var asked struct {
		Stream bool `json:"stream"`
	}
	json.Unmarshal(body, &asked)
	const head = `{"id":"msg_1","type":"message","role":"assistant","model":"claude","stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1},"content":`
	if !asked.Stream {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, strings.Replace(head, `"stop_reason":null`, `"stop_reason":"end_turn"`, 1)+`[{"type":"text","text":"Hello there"}]}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	event := func(kind, data string) {
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, data)
		w.(http.Flusher).Flush()
	}
	event("message_start", `{"type":"message_start","message":`+head+`[]}}`)
	event("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`)
	for _, word := range []string{"Hello", " ", "there"} {
		event("content_block_delta", fmt.Sprintf(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%q}}`, word))
	}
	event("content_block_stop", `{"type":"content_block_stop","index":0}`)
	event("message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":3}}`)
	event("message_stop", `{"type":"message_stop"}`)
}

// openai plays POST /v1/chat/completions.
func openai(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `{"id":"c1","object":"chat.completion","created":1,"model":"gpt","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"Hello there"}}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}`)
}
