package web

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/superserve/superserve/proxy/redact"
)

func (rig *h1rig) dialWebSocket(t *testing.T) (*websocket.Conn, error) {
	c, _, err := websocket.Dial(context.Background(), "wss://"+testHost+"/", &websocket.DialOptions{
		HTTPClient: rig.client(), CompressionMode: websocket.CompressionContextTakeover,
		HTTPHeader: http.Header{"Authorization": {"Bearer " + testPlaceholder}},
	})
	return c, err
}

// TestWebSocket talks through a real client and server, which compress: frames of the
// server are redacted, those of the client are not touched.
func TestWebSocket(t *testing.T) {
	rig := newH1Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+testKey || r.Header.Get("Sec-WebSocket-Extensions") != "permessage-deflate" {
			t.Errorf("the upstream got %q", r.Header)
		}
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			return
		}
		c.SetReadLimit(8 << 20)
		for {
			kind, data, err := c.Read(context.Background())
			if err != nil {
				return
			}
			data = bytes.ReplaceAll(data, []byte("KEY"), []byte(testKey))
			out, err := c.Writer(context.Background(), kind)
			if err != nil {
				return
			}
			for len(data) > 0 { // fragments that cut the key
				n := min(len(data), 1000)
				out.Write(data[:n])
				data = data[n:]
			}
			out.Close()
		}
	})
	c, err := rig.dialWebSocket(t)
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(8 << 20)
	for _, size := range []int{0, 3, 125, 126, 5000, 70000, 2 << 20} {
		text := strings.Repeat("a", size) + "KEY" + strings.Repeat("b", size/2) + testPlaceholder
		if err := c.Write(context.Background(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		_, got, err := c.Read(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.ReplaceAll(text, "KEY", testPlaceholder); string(got) != want {
			t.Fatalf("size %d: the echo of %d bytes differs", size, len(got))
		}
	}
	if err := c.Ping(contextThatReads(t, c)); err != nil {
		t.Error(err)
	}
	c.CloseNow()
	<-rig.ended
}

// contextThatReads reads c in the background, as Ping needs.
func contextThatReads(t *testing.T, c *websocket.Conn) context.Context {
	return c.CloseRead(t.Context())
}

// TestNoTunnelWithoutValidAnswer: what the client sends early is not passed on.
func TestNoTunnelWithoutValidAnswer(t *testing.T) {
	upgrade := get + host + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	good := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
	early := "GET /admin HTTP/1.1\r\nHost: evil.example.net\r\n\r\n"
	for name, c := range map[string]struct{ answer, want string }{
		"wrong hash":       {strings.Replace(good, "s3p", "S3p", 1) + "\r\n", "HTTP/1.1 502"},
		"no hash":          {"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "HTTP/1.1 502"},
		"another protocol": {strings.Replace(good, "websocket", "h2c", 1) + "\r\n", "HTTP/1.1 502"},
		"an extension":     {good + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "HTTP/1.1 502"}, // nobody offered it
		"an answer of 200": {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 421"},
	} {
		t.Run(name, func(t *testing.T) {
			rig := newH1Rig(t)
			var seen counts
			rig.script(func(conn net.Conn, r *bufio.Reader) {
				if _, err := readHead(r); err == nil {
					io.WriteString(conn, c.answer)
					io.Copy(&seen, r)
				}
			})
			got, err := rig.rawExchange(upgrade + early)
			if err != nil || !strings.HasPrefix(got, c.want) {
				t.Errorf("got %v %q, want %q", err, got, c.want)
			}
			<-rig.ended
			if seen.String() != "" {
				t.Errorf("the upstream got %q", seen.String())
			}
		})
	}
}

// frame writes an unmasked frame.
func frame(first byte, payload string) []byte {
	return append(appendFrame(nil, first, int64(len(payload))), payload...)
}

// message joins the data frames of b; control frames are returned apart.
func message(t testing.TB, b []byte) (data, control string) {
	for len(b) > 0 {
		size, length, ok := parseFrame(b, 0)
		if !ok || size == 0 || size+int(length) > len(b) {
			t.Fatalf("what came out is malformed at %q", b)
		}
		payload := string(b[size : size+int(length)])
		if b[0]&wsControl != 0 {
			control += payload
		} else {
			data += payload
		}
		b = b[size+int(length):]
	}
	return data, control
}

func testFrames() frames {
	set := redact.New([]redact.Pair{{Secret: func() []byte { return []byte(testKey) }, Placeholder: testPlaceholder}})
	return frames{stream: set.Stream(), value: set.Value}
}

// TestFramesSplitAnywhere cuts a key over frames, with a ping between, and the
// bytes over reads.
func TestFramesSplitAnywhere(t *testing.T) {
	for cut := range testKey {
		in := frame(1, "a"+testKey[:cut])
		in = append(in, frame(wsFinal|9, "ping"+testKey)...)
		in = append(in, frame(0, testKey[cut:])...)
		in = append(in, frame(wsFinal, "")...)
		in = append(in, frame(wsFinal|1, testKey)...)
		for i := 0; i < len(in); i += 7 {
			f := testFrames()
			out, n, ok := f.redact(nil, in[:i])
			out, m, ok2 := f.redact(out, in[n:])
			if !ok || !ok2 || n+m != len(in) {
				t.Fatalf("cut %d, read %d: %v %v %d", cut, i, ok, ok2, n+m)
			}
			data, control := message(t, out)
			if data != "a"+testPlaceholder+testPlaceholder || control != "ping"+testPlaceholder {
				t.Fatalf("cut %d, read %d: got %q %q", cut, i, data, control)
			}
		}
	}
}

func TestFramesRefuse(t *testing.T) {
	for name, in := range map[string][]byte{
		"masked":                     {wsFinal | 1, wsMasked | 1, 0, 0, 0, 0, 'a'},
		"reserved bits":              {wsFinal | 0x40 | 1, 1, 'a'},
		"unknown opcode":             {wsFinal | 3, 1, 'a'},
		"unknown control":            {wsFinal | 11, 1, 'a'},
		"a fragmented ping":          {9, 1, 'a'},
		"a long ping":                {wsFinal | 9, 126, 0, 126},
		"a length that is too long":  {wsFinal | 1, 126, 0, 5},
		"a 64-bit length of 16":      {wsFinal | 1, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff},
		"a negative length":          {wsFinal | 1, 127, 0x80, 0, 0, 0, 0, 1, 0, 0},
		"a continuation of nothing":  {wsFinal, 1, 'a'},
		"a message inside a message": {1, 1, 'a', wsFinal | 1, 1, 'a'},
	} {
		f := testFrames()
		if _, _, ok := f.redact(nil, in); ok {
			t.Errorf("%s: it passes", name)
		}
	}
}
