package web

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// serveOnce reads one head and answers raw, for each request of a connection.
func serveRaw(raw string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		for {
			if _, err := readHead(r); err != nil {
				return
			}
			io.WriteString(c, raw)
			if !strings.Contains(raw, "Content-Length") && !strings.Contains(raw, "chunked") && !strings.Contains(raw, " 204") && !strings.Contains(raw, " 304") {
				return
			}
		}
	}
}

// rawExchange sends raw and returns all that comes until the connection ends.
func (rig *h1rig) rawExchange(raw string) (string, error) {
	c := rig.dial()
	defer c.Close()
	io.WriteString(c, raw)
	got, err := io.ReadAll(c)
	return string(got), err
}

const bye = get + host + "Connection: close\r\n\r\n"

func TestAnswers(t *testing.T) {
	for _, c := range []struct{ name, raw, want string }{
		{"Content-Length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A:b\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\nConnection: close\r\n\r\nok"},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n02;x=y\r\nok\r\n0\r\nX-T: 1\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"},
		{"ended by the connection", "HTTP/1.1 200 OK\r\n\r\nok", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\nServer: x\r\n\r\nok", "HTTP/1.1 200 OK\r\nServer: x\r\nConnection: close\r\n\r\nok"},
		{"204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"},
		{"304 with a length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"},
		{"no reason", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 \r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"},
		{"both framings", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
		{"interim answers", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"},
		{"without Alt-Svc and hop fields", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAlt-Svc: h3=\":443\"\r\nKeep-Alive: timeout=5\r\nUpgrade: h2\r\nConnection: keep-alive, Upgrade, X-Hop\r\nX-Hop: 1\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rig := newH1Rig(t)
			rig.script(serveRaw(c.raw))
			got, err := rig.rawExchange(bye)
			if err != nil || got != c.want {
				t.Errorf("got %v\n%q, want\n%q", err, got, c.want)
			}
		})
	}
}

// TestFaults: an upstream's fault is answered while no byte of an answer went
// out, and shows as a cut connection after.
func TestFaults(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\n"
	for _, c := range []struct {
		name, raw, reason string // no reason: cut
	}{
		{"nothing", "", "upstream_closed"},
		{"garbage", "hello\r\n\r\n", "upstream_malformed"},
		{"half a head", ok, "upstream_malformed"},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "upstream_malformed"},
		{"obs-fold", ok + "A: b\r\n c\r\n\r\n", "upstream_malformed"},
		{"NUL", ok + "A: b\x00\r\n\r\n", "upstream_malformed"},
		{"lengths that differ", ok + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nok", "upstream_malformed"},
		{"unknown transfer coding", ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "upstream_malformed"},
		{"101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "upstream_malformed"},
		{"a flood of 1xx", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxInterim+1), "upstream_malformed"},
		{"an endless head", ok + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 80), "upstream_malformed"},
		{"too short a body", ok + "Content-Length: 9\r\n\r\nok", ""},
		{"a bad chunk", ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0x\r\n", ""},
		{"chunks without an end", ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", ""},
		{"an endless trailer", ok + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("A: bbbbbbbbbbbbbbbb\r\n", 1000), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			rig := newH1Rig(t)
			rig.script(func(conn net.Conn, r *bufio.Reader) {
				if _, err := readHead(r); err == nil {
					io.WriteString(conn, c.raw)
				}
			})
			got, err := rig.rawExchange(get + host + end)
			if c.reason != "" {
				if err != nil || !strings.Contains(got, "HTTP/1.1 502 ") || !strings.Contains(got, "X-Superserve-Error: "+c.reason) {
					t.Errorf("got %v %q, want 502 %s", err, got, c.reason)
				}
				return
			}
			res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(got)), nil)
			if err != nil {
				t.Fatalf("%v: %q", err, got)
			}
			if body, err := io.ReadAll(res.Body); err == nil && res.StatusCode != 502 {
				t.Errorf("got %q, which looks whole", body)
			}
		})
	}
}

// TestEchoIsRedacted: the key does not come back, wherever the upstream puts
// it and however it is cut.
func TestEchoIsRedacted(t *testing.T) {
	answers := map[string]func(key string) string{
		"head": func(k string) string {
			return "HTTP/1.1 200 " + k + "\r\nX-Echo: a" + k + "b\r\nContent-Length: 0\r\n\r\n"
		},
		"interim": func(k string) string {
			return "HTTP/1.1 103 x\r\nLink: " + k + "\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
		},
		"length": func(k string) string {
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n<%s>", len(k)+2, k)
		},
		"chunked": func(k string) string {
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunksOf("<"+k+">", 7)
		},
		"closing": func(k string) string { return "HTTP/1.1 200 OK\r\n\r\n<" + k + ">" },
		"trailers": func(k string) string {
			return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: " + k + "\r\n\r\n"
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			rig := newH1Rig(t)
			raw := answer(testKey)
			cut := make(chan int, 1)
			rig.script(func(c net.Conn, r *bufio.Reader) {
				if _, err := readHead(r); err != nil {
					return
				}
				i := <-cut
				io.WriteString(c, raw[:i])
				io.WriteString(c, raw[i:])
			})
			want := ""
			for i := range len(raw) {
				cut <- i
				got, err := rig.rawExchange(get + host + auth + "Connection: close\r\n\r\n")
				if err != nil {
					t.Fatalf("cut at %d: %v %q", i, err, got)
				}
				got = dechunk(t, got)
				if strings.Contains(got, "REAL") {
					t.Fatalf("cut at %d: the key came back: %q", i, got)
				}
				if want == "" {
					want = got
				}
				if got != want || !strings.Contains(got, testPlaceholder) {
					t.Fatalf("cut at %d: got\n%q, want\n%q", i, got, want)
				}
			}
		})
	}
}

func chunksOf(s string, n int) string {
	var b strings.Builder
	for len(s) > 0 {
		m := min(n, len(s))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", m, s[:m])
		s = s[m:]
	}
	return b.String() + "0\r\n\r\n"
}

// dechunk returns head, body and trailers in one form, however chunks were cut.
func dechunk(t *testing.T, raw string) string {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode < 200 || res.TransferEncoding == nil {
		return raw
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(res.Status, string(body), res.Trailer)
}

// TestCompressedAnswer: an answer that is compressed though nobody asked for it
// is decoded, redacted and sent as it is; what cannot be decoded is refused.
func TestCompressedAnswer(t *testing.T) {
	rig := newH1Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/unknown" {
			w.Header().Set("Content-Encoding", "rot13")
			io.WriteString(w, testKey)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		fmt.Fprintf(z, "%s %s", r.Header.Get("Accept-Encoding"), testKey)
		z.Close()
	})
	for path, want := range map[string]string{"/": "200 identity " + testPlaceholder, "/unknown": "502 {"} {
		req, _ := http.NewRequest("GET", "https://"+testHost+path, nil)
		req.Header.Set("Authorization", "Bearer "+testPlaceholder)
		req.Header.Set("Accept-Encoding", "gzip")
		res, err := rig.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if got := fmt.Sprint(res.StatusCode, " ", string(body)); err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("got %v %q, want %q", err, got, want)
		}
		if res.Header.Get("Content-Encoding") != "" {
			t.Errorf("Content-Encoding is %q", res.Header.Get("Content-Encoding"))
		}
	}
}

// TestFullDuplex: an answer that begins before the request has ended.
func TestFullDuplex(t *testing.T) {
	rig := newH1Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		w.WriteHeader(200)
		rc.Flush()
		buf := make([]byte, 32<<10)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			rc.Flush()
			if err != nil {
				return
			}
		}
	})
	for _, length := range []int64{-1, 8 << 20} {
		c := rig.dial()
		framing := "Transfer-Encoding: chunked\r\n\r\n"
		if length > 0 {
			framing = fmt.Sprintf("Content-Length: %d\r\n\r\n", length)
		}
		io.WriteString(c, post+host+auth+framing)
		r := bufio.NewReader(c)
		res, err := http.ReadResponse(r, nil) // before the body is sent
		if err != nil {
			t.Fatal(err)
		}
		block := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
		sum, echo := sha256.New(), sha256.New()
		go func() {
			for range (8 << 20) / len(block) {
				if length < 0 {
					fmt.Fprintf(c, "%x\r\n%s\r\n", len(block), block)
				} else {
					c.Write(block)
				}
			}
			if length < 0 {
				io.WriteString(c, "0\r\n\r\n")
			}
		}()
		for range (8 << 20) / len(block) {
			sum.Write(block)
		}
		if _, err := io.Copy(echo, res.Body); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sum.Sum(nil), echo.Sum(nil)) {
			t.Error("the echo differs")
		}
		io.WriteString(c, post+host+"Content-Length: 2\r\n\r\nok") // the connection goes on
		res, err = http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(res.Body); string(b) != "ok" {
			t.Errorf("got %q after it", b)
		}
	}
}

// TestEarlyRefusal: an upstream that answers and closes in the middle of a large
// body; the client must get to read the answer.
func TestEarlyRefusal(t *testing.T) {
	rig := newH1Rig(t)
	rig.script(func(c net.Conn, r *bufio.Reader) {
		readHead(r)
		io.ReadFull(r, make([]byte, 64<<10))
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
	})
	req, _ := http.NewRequest("POST", "https://"+testHost+"/", io.LimitReader(zeros{}, 4<<20))
	req.ContentLength = 4 << 20
	res, err := rig.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(res.Body); res.StatusCode != 413 || string(body) != "no" {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestExpectContinue(t *testing.T) {
	rig := newH1Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(401)
			return
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "got %s", b)
	})
	c := rig.dial()
	r := bufio.NewReader(c)
	io.WriteString(c, "POST /yes HTTP/1.1\r\n"+host+"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
	if head, err := readHead(r); err != nil || !strings.HasPrefix(head, "HTTP/1.1 100 ") {
		t.Fatalf("got %q %v, want 100", head, err)
	}
	io.WriteString(c, "body")
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(res.Body); string(b) != "got body" {
		t.Errorf("got %q", b)
	}
	io.WriteString(c, "POST /no HTTP/1.1\r\n"+host+"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
	if res, err = http.ReadResponse(r, nil); err != nil || res.StatusCode != 401 {
		t.Fatalf("got %v %v, want 401", res, err)
	}
	io.Copy(io.Discard, res.Body)
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v after a refused expectation, want the end", err)
	}
}

// TestEventsAreNotDelayed: each event arrives while the next is not yet sent.
func TestEventsAreNotDelayed(t *testing.T) {
	rig := newH1Rig(t)
	next := make(chan struct{})
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; ; i++ {
			fmt.Fprintf(w, "data: %d sk-test-\n\n", i)
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, "GET", "https://"+testHost+"/", nil)
	req.Header.Set("Authorization", "Bearer "+testPlaceholder)
	res, err := rig.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(res.Body)
	for i := range 20 {
		line, err := r.ReadString('\n')
		if want := fmt.Sprintf("data: %d sk-test-\n", i); err != nil || line != want {
			t.Fatalf("got %q %v, want %q", line, err, want)
		}
		r.ReadString('\n')
		next <- struct{}{}
	}
	cancel()
	<-rig.ended // the upstream's handler ends too, or the rig's cleanup hangs
}

// TestCancelledWait: a client that leaves while its answer is awaited ends the
// upstream's work.
func TestCancelledWait(t *testing.T) {
	rig := newH1Rig(t)
	begun, gone := make(chan struct{}), make(chan struct{})
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		close(begun)
		<-r.Context().Done()
		close(gone)
	})
	c := rig.dial()
	io.WriteString(c, post+host+"Content-Length: 4\r\n\r\nbody")
	<-begun
	c.Close()
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Fatal("the upstream still works for a client that left")
	}
}

// TestConstantMemory: 64 MiB each way.
func TestConstantMemory(t *testing.T) {
	const size = 64 << 20
	rig := newH1Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if n != size || err != nil {
			t.Errorf("the upstream got %d bytes, %v", n, err)
		}
		io.CopyN(w, zeros{}, size)
	})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for _, length := range []int64{size, -1} {
		req, _ := http.NewRequest("POST", "https://"+testHost+"/", io.LimitReader(zeros{}, size))
		req.ContentLength = length
		req.Header.Set("Authorization", "Bearer "+testPlaceholder)
		res, err := rig.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
			t.Fatalf("got %d bytes, %v", n, err)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.HeapSys - min(before.HeapSys, after.HeapSys); grown > 24<<20 {
		t.Errorf("256 MiB passed and the heap grew by %d MiB", grown>>20)
	}
}
