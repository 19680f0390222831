package web

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/superserve/superserve/proxy/swap"
)

var fuzzTarget = swap.Target{Host: testHost, Port: 443, TLS: true}

// FuzzRequestHead: what is taken is re-serialised to something that parses to
// the same, and that net/http reads as one request for the same host and body.
func FuzzRequestHead(f *testing.F) {
	for _, s := range []string{
		get + host + end, post + host + "Content-Length: 3\r\n\r\n", post + host + "Transfer-Encoding: chunked\r\n\r\n",
		"GET https://" + testHost + "/x HTTP/1.1\r\nHost: API.example.com.:443\r\nConnection: x, close\r\nX: y\r\n\r\n",
		get + host + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
		get + host + "A: b\r\n c\r\n\r\n", "GET / HTTP/1.1\nHost: x\n\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, ref := headEnd(b, 0)
		if n == 0 || ref != nil {
			return
		}
		var h requestHead
		if h.parse(b[:n], true) != nil || h.checkHost(&fuzzTarget) != nil {
			return
		}
		out := h.appendTo(nil, &fuzzTarget, nil, false)
		var again requestHead
		m, ref := headEnd(out, 0)
		if ref != nil || m != len(out) {
			t.Fatalf("%q became %q, which ends at %d", b, out, m)
		}
		if ref := again.parse(out, true); ref != nil || again.checkHost(&fuzzTarget) != nil || again.body != h.body || again.length != h.length {
			t.Fatalf("%q became %q: %v", b, out, ref)
		}
		compareWithStd(t, out, &again)
	})
}

func compareWithStd(t *testing.T, out []byte, h *requestHead) {
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(out)))
	if err != nil {
		return // stricter than we are about targets
	}
	if !strings.EqualFold(req.Host, testHost) && req.Host != testHost {
		t.Fatalf("%q is for host %q", out, req.Host)
	}
	chunked := len(req.TransferEncoding) > 0
	if chunked != (h.body == bodyChunked) || h.body == bodyLength && req.ContentLength != h.length {
		t.Fatalf("%q has another body: %v %d", out, req.TransferEncoding, req.ContentLength)
	}
}

// FuzzResponseHead: what is taken is re-serialised to something that parses to
// the same framing.
func FuzzResponseHead(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nConnection: x\r\nX: y\r\n\r\n",
		"HTTP/1.0 304 Not Modified\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 103 x\r\nLink: a\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	method := []byte("GET")
	f.Fuzz(func(t *testing.T, b []byte) {
		n, ref := headEnd(b, 0)
		if n == 0 || ref != nil {
			return
		}
		var h, again responseHead
		if h.parse(b[:n], method) != nil {
			return
		}
		out := h.appendTo(nil, h.body, false, h.close)
		if m, ref := headEnd(out, 0); ref != nil || m != len(out) {
			t.Fatalf("%q became %q, which ends at %d", b, out, m)
		}
		if again.parse(out, method) != nil || again.body != h.body || h.body == bodyLength && again.length != h.length {
			t.Fatalf("%q became %q", b, out)
		}
	})
}

// FuzzChunks: the same bytes come out however the input is cut, and net/http's
// reader finds the same body in them.
func FuzzChunks(f *testing.F) {
	for _, s := range []string{
		"4\r\nabcd\r\n0\r\n\r\n", "04;a=b\r\nabcd\r\n00\r\nX: y\r\n\r\n", "0\r\n\r\n", "4\r\nabcde\r\n", "0x1\r\n",
	} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		var whole, parts chunkParser
		var h fieldLines
		want, n, done, ok := whole.mirror(nil, b, &h)
		if !ok {
			return
		}
		cut = min(max(cut, 0), len(b))
		got, m, done2, ok2 := parts.mirror(nil, b[:cut], &h)
		if ok2 && !done2 {
			var k int
			got, k, done2, ok2 = parts.mirror(got, b[m:], &h)
			m += k
		}
		if !ok2 || done2 != done || m != n || !bytes.Equal(got, want) {
			t.Fatalf("%q cut at %d: %v %v %d %q, whole: %v %d %q", b, cut, ok2, done2, m, got, done, n, want)
		}
		if !done {
			return
		}
		raw := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + string(want)
		res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(raw)), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(res.Body); err != nil && !strings.Contains(err.Error(), "trailer") && !strings.Contains(err.Error(), "MIME") {
			t.Fatalf("%q became %q: %v", b, want, err)
		}
	})
}

// FuzzFrames: whatever comes out is well formed, and no key is in it.
func FuzzFrames(f *testing.F) {
	f.Add(frame(wsFinal|1, testKey), 5)
	f.Add(append(frame(1, testKey[:9]), frame(wsFinal, testKey[9:])...), 20)
	f.Add(append(frame(2, "a"), frame(wsFinal|9, "ping")...), 1)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		s := testFrames()
		cut = min(max(cut, 0), len(b))
		out, n, ok := s.redact(nil, b[:cut])
		if ok {
			out, _, _ = s.redact(out, b[n:])
		}
		if bytes.Contains(out, []byte(testKey)) {
			t.Fatalf("the key is in %q", out)
		}
		for len(out) > 0 {
			size, length, ok := parseFrame(out, 0)
			if !ok || size == 0 {
				t.Fatalf("%q became malformed at %q", b, out)
			}
			out = out[min(size+int(length), len(out)):]
		}
	})
}
