package web

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

// memoryConn reads what it was given and keeps what was written.
type memoryConn struct {
	net.Conn
	in io.Reader

	mu      sync.Mutex
	written bytes.Buffer
	closed  chan struct{}
	once    sync.Once
}

func newMemoryConn(in []byte) *memoryConn {
	return &memoryConn{in: bytes.NewReader(in), closed: make(chan struct{})}
}

func (c *memoryConn) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if err == io.EOF && n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (c *memoryConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written.Write(p)
}

func (c *memoryConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

// idleConn is silent after what it was given, until it is closed.
type idleConn struct{ *memoryConn }

func (c idleConn) Read(p []byte) (int, error) {
	if n, err := c.memoryConn.Read(p); err == nil {
		return n, nil
	}
	<-c.closed
	return 0, net.ErrClosed
}

// fuzzFrames writes frames for the corpus.
func fuzzFrames(write func(p *rawPeer)) []byte {
	var out bytes.Buffer
	p := &rawPeer{fr: http2.NewFramer(&out, nil)}
	p.fr.AllowIllegalWrites = true
	p.enc = hpack.NewEncoder(&p.buf)
	write(p)
	return out.Bytes()
}

// FuzzHTTP2 feeds a relay any bytes from both sides. Whatever comes, it ends, and
// all that it wrote are legal frames whose requests obey the rules.
func FuzzHTTP2(f *testing.F) {
	answers := fuzzFrames(func(p *rawPeer) {
		p.fr.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		p.headers(1, false, ":status", "200", "x-echo", testKey)
		p.fr.WriteData(1, false, []byte(testKey[:20]))
		p.fr.WriteDataPadded(1, false, []byte(testKey[20:]), make([]byte, 3))
		p.headers(1, true, "grpc-status", "0")
		p.fr.WriteGoAway(1, http2.ErrCodeNo, nil)
	})
	messages := fuzzFrames(func(p *rawPeer) {
		p.fr.WriteSettings()
		p.headers(1, false, ":status", "200", "content-type", "application/grpc", "grpc-encoding", "gzip")
		p.fr.WriteData(1, false, []byte(grpcMessage(1, gzipped(testKey))+grpcMessage(0, testKey)[:20]))
		p.headers(3, false, ":status", "200", "content-type", "application/grpc")
		p.fr.WriteData(3, false, []byte(grpcMessage(0, testKey)+grpcMessage(1, "")))
		p.fr.WritePing(false, [8]byte{})
		p.fr.WriteData(1, false, []byte(grpcMessage(0, testKey)[20:]))
		p.headers(1, true, "grpc-status", "0")
	})
	for i, fields := range [][]string{
		rawRequest(), rawRequest("authorization", "Bearer "+testPlaceholder), rawRequest("cookie", "a=b", "cookie", "c=d"),
		rawRequest("host", "evil"), rawRequest("content-length", "3", "te", "trailers"), rawRequest("authorization", "Bearer "+testPlaceholder),
	} {
		upstream := answers
		if i == 5 {
			upstream = messages
		}
		f.Add(fuzzFrames(func(p *rawPeer) {
			p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
			p.headers(1, false, fields...)
			p.fr.WriteWindowUpdate(0, 100)
			p.fr.WriteData(1, false, []byte("abc"))
			p.headers(1, true, "x-trailer", "1")
			p.headers(3, true, fields...)
			p.fr.WriteRSTStream(3, http2.ErrCodeCancel)
			p.fr.WritePing(false, [8]byte{})
		}), upstream)
	}
	f.Fuzz(func(t *testing.T, fromClient, fromUpstream []byte) {
		client := newMemoryConn(append([]byte(http2.ClientPreface), fromClient...))
		upstream := newMemoryConn(fromUpstream)
		ses := fuzzSession(client, idleConn{upstream})
		stuck := time.AfterFunc(time.Minute, func() { panic("the relay does not end") })
		_ = ses.serveHTTP2(context.Background())
		stuck.Stop()
		checkRequests(t, upstream.written.Bytes())
		checkFrames(t, "client", client.written.Bytes())
	})
}

type noRecords struct{}

func (noRecords) Record(audit.Event) error { return nil }

func fuzzSession(client, upstream net.Conn) *session {
	entry := api.Entry{Name: "TEST_API_KEY", Placeholder: testPlaceholder, Binding: api.Binding{Hosts: []api.Pattern{{Host: testHost}}}}
	return &session{
		srv:  &Server{swap: swap.New([]api.Entry{entry}, &testKeys{}), audit: noRecords{}},
		conn: &proxy.Conn{Conn: client, Host: testHost, Port: 443}, client: client, upstream: upstream,
		target: swap.Target{Host: testHost, Port: 443, TLS: true},
	}
}

// checkFrames fails for bytes that are not whole, legal frames, and calls each.
func checkFrames(t *testing.T, side string, b []byte, each ...func(http2.Frame)) {
	t.Helper()
	fr := http2.NewFramer(io.Discard, bytes.NewReader(b))
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	fr.MaxHeaderListSize = 1 << 20
	fr.SetMaxReadFrameSize(maxFrameBytes)
	for {
		frame, err := fr.ReadFrame()
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return
		}
		if err != nil {
			t.Fatalf("what the %s gets is not HTTP/2: %v (%v)", side, err, fr.ErrorDetail())
		}
		for _, f := range each {
			f(frame)
		}
	}
}

// checkRequests holds what the upstream gets against the rules R1 and R5.
func checkRequests(t *testing.T, b []byte) {
	t.Helper()
	if len(b) == 0 {
		return
	}
	rest, ok := bytes.CutPrefix(b, []byte(http2.ClientPreface))
	if !ok {
		t.Fatalf("the upstream gets no preface")
	}
	last := uint32(0)
	checkFrames(t, "upstream", rest, func(f http2.Frame) {
		h, ok := f.(*http2.MetaHeadersFrame)
		if !ok || h.StreamID <= last {
			return // trailers among them
		}
		last = h.StreamID
		if got := h.PseudoValue("authority"); got != testHost {
			t.Fatalf("authority %q went upstream", got)
		}
		if path := h.PseudoValue("path"); path == "" || strings.ContainsAny(path, " #\r\n\x00") || path[0] != '/' && path != "*" {
			t.Fatalf("path %q went upstream", path)
		}
		for _, f := range h.RegularFields() {
			switch f.Name {
			case "host", "connection", "transfer-encoding", "upgrade":
				t.Fatalf("%s went upstream", f.Name)
			}
		}
	})
}

// FuzzHTTP2Literal writes any value as a secret and reads it with the real
// decoder.
func FuzzHTTP2Literal(f *testing.F) {
	f.Add("authorization", []byte("Bearer x"))
	f.Add("x-api-key", bytes.Repeat([]byte("k"), 127))
	f.Add("x", bytes.Repeat([]byte("k"), 300))
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		q := newFrameQueue()
		at := q.begin(http2.FrameHeaders, 0, 1)
		q.field(":path", "/", false)
		q.secretField(name, 0, func(dst []byte) []byte { return append(dst, value...) })
		q.field("x-after", "1", false)
		fields, err := hpack.NewDecoder(4096, nil).DecodeFull(q.buf[at+frameHeaderBytes:])
		if err != nil {
			t.Fatal(err)
		}
		got := fields[1]
		if got.Name != name || got.Value != string(value) || !got.Sensitive || fields[2].Name != "x-after" {
			t.Errorf("got %q %q, want %q %q", got.Name, got.Value, name, value)
		}
	})
}
