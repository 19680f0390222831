package abuse

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/superserve/superserve/proxy"
)

// get does one request with the key and reads the answer to its end, without keeping it.
func (v *victim) get(c *http.Client, path string) (status int, n int64, err error) {
	req, err := http.NewRequest("GET", "https://"+host+path, nil)
	if err != nil {
		return 0, 0, err
	}
	req.Header.Set("Authorization", "Bearer "+placeholder)
	res, err := c.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer res.Body.Close()
	n, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, n, err
}

// TestDecompressionBombs: an answer of 256 MiB in few KiB, on a connection that carries a key. It is given up at a
// hundred times its size, and the decoder's memory is all that it costs.
func TestDecompressionBombs(t *testing.T) {
	bombs()
	v := start(t, newUpstream(t, bomb))
	for _, proto := range []string{"http/1.1", "h2"} {
		for _, coding := range []string{"gzip", "deflate", "br", "zstd", "gzip, gzip"} {
			t.Run(proto+" "+coding, func(t *testing.T) {
				v := v.in1(t)
				client := v.client(proto)
				var n int64
				var err error
				v.measure(func() {
					_, n, err = v.get(client, "/"+strings.ReplaceAll(coding, ", ", "+"))
				}).within(t, cost{Peak: 32 * MiB, CPU: 5 * time.Second, Took: 5 * time.Second})
				wire := int64(len(bombs()[coding]))
				if err == nil || n > max(8*MiB, 100*wire)+MiB {
					t.Errorf("the agent got %d bytes of %d, and %v", n, wire, err)
				}
			})
		}
	}
}

// in1 is v for a part of the test.
func (v *victim) in1(t *testing.T) *victim {
	return &victim{t: t, cmd: v.cmd, addr: v.addr, roots: v.roots, in: v.in, out: v.out}
}

// TestManyDecoders: 100 answers at once, each of which asks for the largest window that its coding has.
func TestManyDecoders(t *testing.T) {
	bombs()
	release := make(chan struct{})
	up := newUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		coding := r.URL.Path[1:]
		w.Header().Set("Content-Encoding", coding)
		w.Write(bombs()[coding][:min(len(bombs()[coding])/2, 128<<10)])
		w.(http.Flusher).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	v := start(t, up)
	for _, coding := range []string{"br", "zstd"} {
		t.Run(coding, func(t *testing.T) {
			v := v.in1(t)
			p := v.attack(maxWindow...)
			p.fr.WriteWindowUpdate(0, 1<<30)
			v.measure(func() {
				for i := range uint32(100) {
					p.headers(2*i+1, true, keyed("/"+coding)...)
				}
				for i := range uint32(100) {
					p.outcome(2*i + 1)
				}
				v.quiet()
			}).within(t, cost{Peak: 256 * MiB})
		})
	}
	close(release)
}

// quiet waits until the process has used no processor for a moment.
func (v *victim) quiet() {
	for last := time.Duration(-1); ; {
		now := v.cpu()
		if now-last < 2*time.Millisecond {
			return
		}
		last = now
		time.Sleep(100 * time.Millisecond) // a state of another process: there is nothing to wait on
	}
}

// TestRequestBomb: an agent's own request body of a GiB in a few KiB, which is decoded because a key may stand in it.
func TestRequestBomb(t *testing.T) {
	up := newUpstream(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	v := start(t, up, func(c *childConfig) { c.Bodies = true })
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, `{"token":"`+bodyHolder+`","x":"`)
	w.Write(make([]byte, 256*MiB))
	io.WriteString(w, `"}`)
	w.Close()
	for _, proto := range []string{"http/1.1", "h2"} {
		t.Run(proto, func(t *testing.T) {
			v := v.in1(t)
			client := v.client(proto)
			v.measure(func() {
				req, _ := http.NewRequest("POST", "https://"+host+"/", bytes.NewReader(b.Bytes()))
				req.Header.Set("Content-Type", "application/json")
				req.Header.Set("Content-Encoding", "gzip")
				res, err := client.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
				t.Logf("%s: %s", res.Status, res.Header.Get("X-Superserve-Error"))
			}).within(t, cost{Peak: 16 * MiB, CPU: time.Second, Took: time.Second})
		})
	}
}

// TestEndlessAnswers: an upstream that never comes to the point.
func TestEndlessAnswers(t *testing.T) {
	forever := func(w io.Writer, head, piece string) {
		io.WriteString(w, head)
		for chunk := []byte(strings.Repeat(piece, 1+8192/len(piece))); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	answers := map[string]func(w io.Writer){
		"/1xx":          func(w io.Writer) { forever(w, "", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n") },
		"/head":         func(w io.Writer) { forever(w, "HTTP/1.1 200 OK\r\n", "X: y\r\n") },
		"/field":        func(w io.Writer) { forever(w, "HTTP/1.1 200 OK\r\nX: ", "y") },
		"/reason":       func(w io.Writer) { forever(w, "HTTP/1.1 200 ", "y") },
		"/trailers":     func(w io.Writer) { forever(w, chunked+"0\r\n", "X: y\r\n") },
		"/extension":    func(w io.Writer) { forever(w, chunked+"4;", "y") },
		"/size":         func(w io.Writer) { forever(w, chunked, "0") },
		"/small chunks": func(w io.Writer) { forever(w, chunked, "1\r\nx\r\n") },
	}
	v := start(t, newUpstream(t, func(w http.ResponseWriter, r *http.Request) { raw(answers[r.URL.Path])(w, r) }))
	for path := range answers {
		if path == "/small chunks" {
			continue
		}
		t.Run(path[1:], func(t *testing.T) {
			v := v.in1(t)
			client := v.client("http/1.1")
			v.measure(func() {
				if status, n, err := v.get(client, path); err == nil && status == 200 {
					t.Errorf("the agent got 200 and %d bytes", n)
				}
			}).within(t, cost{Peak: 8 * MiB, CPU: time.Second / 2, Took: time.Second})
		})
	}
	t.Run("small chunks", func(t *testing.T) { v.in1(t).stream("http/1.1", "/small%20chunks", 32*MiB/6) })
	t.Run("a body, HTTP/1.1", func(t *testing.T) { v.in1(t).stream("http/1.1", "/big", 256*MiB) })
	t.Run("a body, HTTP/2", func(t *testing.T) { v.in1(t).stream("h2", "/big", 256*MiB) })
}

// stream reads so much of an answer that has no end, and leaves.
func (v *victim) stream(proto, path string, n int64) {
	client := v.client(proto)
	v.measure(func() {
		req, _ := http.NewRequest("GET", "https://"+host+path, nil)
		req.Header.Set("Authorization", "Bearer "+placeholder)
		res, err := client.Do(req)
		if err != nil {
			v.t.Error(err)
			return
		}
		defer res.Body.Close()
		if _, err := io.CopyN(io.Discard, res.Body, n); err != nil {
			v.t.Error(err)
		}
	}).within(v.t, cost{Peak: 8 * MiB})
}

// TestHTTP2HostileHeads: an upstream of HTTP/2 that sends heads and 1xx without end.
func TestHTTP2HostileHeads(t *testing.T) {
	v := start(t, newUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/1xx":
			for range 10_000 {
				w.WriteHeader(103)
			}
		case "/head":
			for i := range 5000 {
				w.Header().Set(fmt.Sprint("x-", i), strings.Repeat("v", 200))
			}
		case "/trailers":
			w.Write([]byte("x"))
			for i := range 5000 {
				w.Header().Set(fmt.Sprint(http.TrailerPrefix, "x-", i), strings.Repeat("v", 200))
			}
		}
	}))
	for _, path := range []string{"/1xx", "/head", "/trailers"} {
		t.Run(path[1:], func(t *testing.T) {
			v := v.in1(t)
			client := v.client("h2")
			v.measure(func() {
				if status, _, err := v.get(client, path); err == nil && status == 200 {
					t.Error("the agent got 200")
				}
			}).within(t, cost{Peak: 8 * MiB, CPU: time.Second / 2, Took: 2 * time.Second})
		})
	}
}

// TestSlowReaders: answers without end, to agents that read nothing of them, on twice as many connections as there may be.
// Each holds two TLS records of the upstream and one of the client, what the search for keys has of it, and garbage.
func TestSlowReaders(t *testing.T) {
	v := start(t, newUpstream(t, nil))
	v.measure(func() {
		ask := v.over("GET /big HTTP/1.1\r\nHost: " + host + "\r\nAuthorization: Bearer " + placeholder + "\r\n\r\n")
		taken := v.slow(2*proxy.DefaultMaxWeb, func() (net.Conn, error) {
			c, err := ask()
			if err == nil {
				_, err = c.Read(make([]byte, 1))
			}
			return c, err
		})
		if len(taken) < proxy.DefaultMaxWeb-10 || len(taken) > proxy.DefaultMaxWeb {
			t.Errorf("%d connections were taken, want %d", len(taken), proxy.DefaultMaxWeb)
		}
		v.quiet()
	}).within(t, cost{Peak: 64 * MiB})
}
