package abuse

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy"
)

// slow opens n connections, at most a few at a time, and lets open begin something on each that it does not end. It
// returns those that the proxy took.
func (v *victim) slow(n int, open func() (net.Conn, error)) (taken []net.Conn) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	turn := make(chan struct{}, 32)
	for range n {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			if c, err := open(); err == nil {
				mu.Lock()
				taken = append(taken, c)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return taken
}

// refused waits until so many connections were one too many: they wait for room first.
func (v *victim) refused(n int) (c proxy.Counts) {
	for end := time.Now().Add(time.Minute); c.Capped < uint64(n) && time.Now().Before(end); {
		c = v.stats("stats").Counts
	}
	return c
}

// over opens a TLS connection and writes to it.
func (v *victim) over(text string) func() (net.Conn, error) {
	return func() (net.Conn, error) {
		c, err := v.tryDial("http/1.1")
		if err != nil {
			return nil, err
		}
		_, err = io.WriteString(c, text)
		return c, err
	}
}

// TestSlowloris: a thousand connections that begin a hello, a head or a body and do not end it. The sandbox's own
// connections are capped; a neighbour, with a proxy of its own, notices nothing.
func TestSlowloris(t *testing.T) {
	up := newUpstream(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	for _, c := range []struct {
		name string
		most int // connections that are taken at once
		open func(v *victim) func() (net.Conn, error)
	}{
		{"nothing said", proxy.DefaultMaxConns, func(v *victim) func() (net.Conn, error) {
			return func() (net.Conn, error) { return net.Dial("tcp", v.addr) }
		}},
		{"half a hello", proxy.DefaultMaxConns, func(v *victim) func() (net.Conn, error) {
			return func() (net.Conn, error) {
				c, err := net.Dial("tcp", v.addr)
				if err == nil {
					_, err = c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3})
				}
				return c, err
			}
		}},
		{"half a head", proxy.DefaultMaxWeb, func(v *victim) func() (net.Conn, error) {
			return v.over("GET / HTTP/1.1\r\nHost: " + host + "\r\nX: ")
		}},
		{"a long head without its end", proxy.DefaultMaxWeb, func(v *victim) func() (net.Conn, error) {
			return v.over("GET / HTTP/1.1\r\nHost: " + host + "\r\nX: " + strings.Repeat("x", 60<<10))
		}},
		{"half a body", proxy.DefaultMaxWeb, func(v *victim) func() (net.Conn, error) {
			return v.over("POST / HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 60<<10))
		}},
		{"half a chunk", proxy.DefaultMaxWeb, func(v *victim) func() (net.Conn, error) {
			return v.over("POST / HTTP/1.1\r\nHost: " + host + "\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + strings.Repeat("x", 1000))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, neighbour := start(t, up), start(t, up)
			before, files := v.stats("gc"), v.files()
			idle := neighbour.p99(400)
			var conns []net.Conn
			v.measure(func() {
				conns = v.slow(1000, c.open(v))
				v.quiet()
			}).within(t, cost{Peak: 64 * MiB})
			busy := neighbour.p99(400)
			for try := 0; busy > 2*idle && try < 20; try++ { // this machine has other things to do, which come and go
				busy = min(busy, neighbour.p99(400))
			}
			counts := v.refused(1000 - c.most - 100) // some end meanwhile
			t.Logf("LIMIT | %s: open %d of 1000, cap %d | the neighbour's p99 %v, before %v", c.name, 1000-counts.Capped, c.most, busy, idle)
			if open := 1000 - int(counts.Capped); open > c.most+100 {
				t.Errorf("%d connections were taken at once, want %d", open, c.most)
			}
			if busy > 2*idle+2*time.Millisecond*patience() {
				t.Errorf("the neighbour's p99 went from %v to %v", idle, busy)
			}
			for _, c := range conns {
				c.Close()
			}
			v.settles(before, files)
		})
	}
}

// TestAbandonedConnections: 10,000 connections that end at every stage, by a close or a reset, leave nothing.
func TestAbandonedConnections(t *testing.T) {
	v := start(t, newUpstream(t, nil))
	hello := clientHello(t, v)
	before, files := v.stats("gc"), v.files()
	v.measure(func() {
		for i := range 10 {
			conns := v.slow(1000, func() (net.Conn, error) {
				c, err := net.Dial("tcp", v.addr)
				if err != nil {
					return nil, err
				}
				switch i % 5 {
				case 1:
					c.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
				case 2:
					c.Write(hello[:len(hello)/2])
				case 3:
					c.Write(hello)
				case 4:
					c.Write(bytes.Repeat([]byte{22, 3, 1, 0, 1, 0}, 2000))
				}
				if i >= 5 {
					c.(*net.TCPConn).SetLinger(0)
				}
				return c, c.Close()
			})
			if len(conns) < 500 {
				t.Errorf("only %d of 1000 connections of kind %d were made", len(conns), i)
			}
		}
	}).within(t, cost{Peak: 64 * MiB})
	v.settles(before, files)
}

// clientHello is what a client sends first.
func clientHello(t *testing.T, v *victim) []byte {
	c, s := net.Pipe()
	defer c.Close()
	go tls.Client(c, v.config("http/1.1")).Handshake()
	buf := make([]byte, 16<<10)
	n, err := s.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	return buf[:n]
}

// TestDeadlines waits for the ends of what is begun and not ended: it takes as long as the longest.
func TestDeadlines(t *testing.T) {
	if os.Getenv("LIMITS") == "" {
		return // 20 s: make limits runs it
	}
	v := start(t, newUpstream(t, nil))
	for _, c := range []struct {
		name        string
		open        func() (net.Conn, error)
		least, most time.Duration
	}{
		{"no hello", func() (net.Conn, error) { return net.Dial("tcp", v.addr) }, 9 * time.Second, 12 * time.Second},
		{"half a hello", func() (net.Conn, error) {
			c, err := net.Dial("tcp", v.addr)
			if err == nil {
				_, err = c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3})
			}
			return c, err
		}, 9 * time.Second, 12 * time.Second},
		{"half a handshake", func() (net.Conn, error) {
			c, err := net.Dial("tcp", v.addr)
			if err == nil {
				_, err = c.Write(clientHello(t, v))
			}
			return c, err
		}, 9 * time.Second, 12 * time.Second},
		{"half a head", v.over("GET / HTTP/1.1\r\n"), 19 * time.Second, 24 * time.Second},
		{"half a preface", func() (net.Conn, error) {
			c, err := v.tryDial("h2")
			if err == nil {
				_, err = io.WriteString(c, "PRI * HTTP/2.0\r\n")
			}
			return c, err
		}, 9 * time.Second, 12 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			conn, err := c.open()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetReadDeadline(began.Add(30 * time.Second))
			_, err = io.Copy(io.Discard, conn)
			took := time.Since(began)
			t.Logf("LIMIT | %s | ended after %v", c.name, took.Round(time.Millisecond))
			if took < c.least || took > c.most || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("it ended after %v with %v, want %v to %v", took, err, c.least, c.most)
			}
		})
	}
}

// TestWebSocketFloods: frames that bring nothing forward, and ones that claim more than there is.
func TestWebSocketFloods(t *testing.T) {
	v := start(t, newUpstream(t, takeFrames))
	for _, c := range []struct {
		name  string
		frame []byte // from the client, masked with zeros
		count int
	}{
		{"pings", frame(0x89, 0), 1_000_000},
		{"pings of 125 bytes", frame(0x89, 125), 100_000},
		{"fragments", frame(0x00, 0), 1_000_000},
		{"a frame of 2^62 bytes", append(binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, 1<<62), make([]byte, 4)...), 1},
		{"small messages", frame(0x81, 1), 200_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := v.in1(t)
			conn := v.webSocket()
			v.measure(func() {
				done := make(chan struct{})
				go func() {
					defer close(done)
					io.Copy(io.Discard, conn)
				}()
				w := bufio.NewWriterSize(conn, 16<<10)
				if c.frame[0] == 0 {
					w.Write(frame(0x01, 0)) // begins a message
				}
				for range c.count {
					if _, err := w.Write(c.frame); err != nil {
						break
					}
				}
				w.Flush()
				if c.count == 1 {
					conn.Write(make([]byte, 32*MiB))
				}
				conn.CloseWrite()
				conn.SetReadDeadline(time.Now().Add(5 * time.Second))
				<-done
			}).within(t, cost{Peak: 8 * MiB, CPU: 5 * time.Second})
		})
	}
}

// frame is a client's frame of n zeros.
func frame(first byte, n int) []byte {
	return append([]byte{first, 0x80 | byte(n), 0, 0, 0, 0}, make([]byte, n)...)
}

// takeFrames takes any WebSocket and what it sends.
func takeFrames(w http.ResponseWriter, r *http.Request) {
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	rw.Flush()
	io.Copy(io.Discard, rw)
}

func (v *victim) webSocket() *tls.Conn {
	v.t.Helper()
	c := v.dial("http/1.1")
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", host, placeholder)
	res, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, 4096)), nil)
	if err != nil || res.StatusCode != 101 {
		v.t.Fatalf("no WebSocket: %v %v", res, err)
	}
	return c
}

// TestSlowHTTPTest lets slowhttptest do it: slow heads, slow bodies, slow reading of answers, 1,000 connections each.
func TestSlowHTTPTest(t *testing.T) {
	if os.Getenv("LIMITS") == "" {
		return // a minute: make limits runs it
	}
	tool, err := exec.LookPath("slowhttptest")
	if err != nil {
		t.Fatal("slowhttptest is not installed: scripts/setup limits installs it")
	}
	up := newUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write(make([]byte, 4*MiB))
	})
	for _, c := range []struct {
		name string
		args []string
	}{
		{"slow heads", []string{"-H", "-i", "2", "-x", "24"}},
		{"slow bodies", []string{"-B", "-i", "2", "-s", "1000000", "-x", "64"}},
		{"slow reading", []string{"-X", "-w", "512", "-y", "1024", "-n", "2", "-z", "32"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, neighbour := start(t, up, func(c *childConfig) { c.Local = true }), start(t, up)
			before, files := v.stats("gc"), v.files()
			idle := neighbour.p99(400)
			var busy []time.Duration
			var out []byte
			v.measure(func() {
				cmd := exec.Command(tool, append(c.args, "-c", "1000", "-r", "500", "-l", "15", "-p", "3", "-u", "https://"+strings.Replace(v.addr, "127.0.0.1", "localhost", 1)+"/")...)
				var text bytes.Buffer
				cmd.Stdout = &text
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				for range 20 {
					busy = append(busy, neighbour.p99(400))
				}
				cmd.Wait() // its exit code says nothing
				out = text.Bytes()
			}).within(t, cost{Peak: 64 * MiB})
			slices.Sort(busy)
			counts := v.stats("stats").Counts
			t.Logf("LIMIT | %s: %+v | the neighbour's p99, median of 20, %v, before %v", c.name, counts, busy[len(busy)/2], idle)
			if counts.Accepted < 500 || counts.Capped == 0 {
				t.Errorf("slowhttptest did not attack:\n%s", out)
			}
			v.settles(before, files)
		})
	}
}
