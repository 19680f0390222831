package abuse

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"github.com/superserve/superserve/proxy/ca"
)

// upstream is a server that may be hostile, by path.
type upstream struct {
	addr string
	pem  []byte
}

// newUpstream serves HTTP/1.1 and HTTP/2 with handle, and /ok.
func newUpstream(t *testing.T, handle http.HandlerFunc) *upstream {
	t.Helper()
	authority, err := ca.New()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	mux.HandleFunc("/big", big)
	if handle != nil {
		mux.HandleFunc("/", handle)
	}
	srv := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return authority.Leaf(h.ServerName) }}}
	srv.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1000}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return &upstream{l.Addr().String(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.DER()})}
}

// big answers without end.
func big(w http.ResponseWriter, r *http.Request) {
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	for r.Context().Err() == nil {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// raw is an upstream of HTTP/1.1 that answers every request with what write writes.
func raw(write func(w io.Writer)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		write(c)
	}
}

// bombSize is what each bomb decodes to, in bytes.
const bombSize = 256 << 20

// bombs are made once; each is 256 MiB of zeros.
var bombs = sync.OnceValue(func() map[string][]byte {
	m := map[string][]byte{}
	var wg sync.WaitGroup
	var mu sync.Mutex
	for coding, writer := range encoders {
		wg.Go(func() {
			var b bytes.Buffer
			w := writer(&b)
			zeros := make([]byte, MiB)
			for range bombSize / len(zeros) {
				w.Write(zeros)
			}
			w.Close()
			mu.Lock()
			defer mu.Unlock()
			m[coding] = b.Bytes()
		})
	}
	wg.Wait()
	var twice bytes.Buffer
	w := gzip.NewWriter(&twice)
	w.Write(m["gzip"])
	w.Close()
	m["gzip, gzip"] = twice.Bytes()
	return m
})

var encoders = map[string]func(io.Writer) io.WriteCloser{
	"gzip":    func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	"deflate": func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
	"br": func(w io.Writer) io.WriteCloser {
		return brotli.NewWriterOptions(w, brotli.WriterOptions{Quality: 3, LGWin: 24})
	},
	"zstd": func(w io.Writer) io.WriteCloser {
		z, _ := zstd.NewWriter(w, zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1))
		return z
	},
}

// bomb answers /CODING with the bomb of that coding.
func bomb(w http.ResponseWriter, r *http.Request) {
	coding := strings.ReplaceAll(strings.TrimPrefix(r.URL.Path, "/"), "+", ", ")
	w.Header().Set("Content-Encoding", coding)
	w.Write(bombs()[coding])
}
