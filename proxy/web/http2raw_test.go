package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rawPeer speaks frames by hand, to break rules.
type rawPeer struct {
	t    testing.TB
	conn net.Conn
	fr   *http2.Framer
	enc  *hpack.Encoder
	buf  bytes.Buffer
	busy bool // another goroutine writes
}

func newRawPeer(t testing.TB, conn net.Conn) *rawPeer {
	p := &rawPeer{t: t, conn: conn, fr: http2.NewFramer(conn, conn)}
	p.fr.AllowIllegalWrites = true
	p.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.enc = hpack.NewEncoder(&p.buf)
	conn.SetDeadline(time.Now().Add(time.Minute))
	t.Cleanup(func() { conn.Close() })
	return p
}

// rawClient connects to the proxy and exchanges SETTINGS.
func (rig *h2rig) rawClient() *rawPeer {
	rig.t.Helper()
	conn, err := rig.dial(context.Background())
	if err != nil {
		rig.t.Fatal(err)
	}
	p := newRawPeer(rig.t, conn)
	io.WriteString(conn, http2.ClientPreface)
	p.fr.WriteSettings()
	return p
}

func (p *rawPeer) block(fields ...string) []byte {
	p.buf.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(p.buf.Bytes())
}

// request is a good request's fields followed by others.
func rawRequest(more ...string) []string {
	return append([]string{":method", "GET", ":scheme", "https", ":authority", testHost, ":path", "/"}, more...)
}

func (p *rawPeer) headers(id uint32, end bool, fields ...string) {
	p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(fields...), EndStream: end, EndHeaders: true})
}

// outcome is how the proxy met an attack: with an answer, RST_STREAM, GOAWAY or
// by closing.
type outcome struct {
	status string
	reset  http2.ErrCode
	goAway http2.ErrCode
	closed bool
}

// outcome reads until stream id or the connection is done with.
func (p *rawPeer) outcome(id uint32) (o outcome) {
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				p.t.Fatal("neither answered nor closed")
			}
			o.closed = true
			return o
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == id {
				o.status = f.PseudoValue("status")
				if f.StreamEnded() {
					return o
				}
			}
		case *http2.DataFrame:
			if f.StreamID == id && f.StreamEnded() {
				return o
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				o.reset = f.ErrCode
				return o
			}
		case *http2.GoAwayFrame:
			o.goAway = f.ErrCode
			return o
		case *http2.SettingsFrame:
			if !f.IsAck() && !p.busy {
				p.fr.WriteSettingsAck()
			}
		}
	}
}

func TestHTTP2RefusesMalformedRequests(t *testing.T) {
	rig := newH2Rig(t)
	var reached atomic.Int32
	rig.handle(func(w http.ResponseWriter, r *http.Request) { reached.Add(1) })
	replace := func(name, value string) []string {
		fields := rawRequest()
		for i := 0; i < len(fields); i += 2 {
			if fields[i] == name {
				fields[i+1] = value
			}
		}
		return fields
	}
	for _, test := range []struct {
		name   string
		fields []string
		status string
	}{
		{"an upper-case name", rawRequest("X-Upper", "1"), "400"},
		{"a name with a space", rawRequest("x y", "1"), "400"},
		{"an empty name", rawRequest("", "1"), "400"},
		{"a value with CR LF", rawRequest("x-a", "1\r\nauthorization: Bearer x"), "400"},
		{"a value with NUL", rawRequest("x-a", "1\x00"), "400"},
		{"a value with outer blanks", rawRequest("x-a", " 1"), "400"},
		{"connection", rawRequest("connection", "close"), "400"},
		{"transfer-encoding", rawRequest("transfer-encoding", "chunked"), "400"},
		{"upgrade", rawRequest("upgrade", "h2c"), "400"},
		{"http2-settings", rawRequest("http2-settings", "AAMAAABkAAQAAP__"), "400"},
		{"keep-alive", rawRequest("keep-alive", "1"), "400"},
		{"proxy-connection", rawRequest("proxy-connection", "close"), "400"},
		{"te other than trailers", rawRequest("te", "gzip"), "400"},
		{"two content-lengths", rawRequest("content-length", "0", "content-length", "0"), "400"},
		{"a content-length list", rawRequest("content-length", "0, 0"), "400"},
		{"a signed content-length", rawRequest("content-length", "+0"), "400"},
		{"a content-length without content", rawRequest("content-length", "5"), "400"},
		{"the right host beside :authority", rawRequest("host", testHost), "400"},
		{"another host beside :authority", rawRequest("host", "evil.example.com"), "400"},
		{"no :authority", []string{":method", "GET", ":scheme", "https", ":path", "/"}, "400"},
		{"host for :authority", []string{":method", "GET", ":scheme", "https", ":path", "/", "host", testHost}, "400"},
		{"an empty :authority", replace(":authority", ""), "400"},
		{"user information", replace(":authority", "user@"+testHost), "421"},
		{"two authorities in one", replace(":authority", testHost+",evil.example.com"), "421"},
		{"a longer name", replace(":authority", testHost+".evil.com"), "421"},
		{"an address", replace(":authority", "127.0.0.1"), "421"},
		{"another port", replace(":authority", testHost+":444"), "421"},
		{"port 0", replace(":authority", testHost+":0"), "421"},
		{"an absolute :path", replace(":path", "https://"+testHost+"/"), "400"},
		{"an empty :path", replace(":path", ""), "400"},
		{"a relative :path", replace(":path", "v1"), "400"},
		{"a space in :path", replace(":path", "/a b"), "400"},
		{"a fragment in :path", replace(":path", "/a#b"), "400"},
		{"CR LF in :path", replace(":path", "/a HTTP/1.1\r\nx: y"), "400"},
		{"an asterisk for GET", replace(":path", "*"), "400"},
		{"scheme http", replace(":scheme", "http"), "400"},
		{"no method", replace(":method", ""), "400"},
		{"a method with a space", replace(":method", "GET /"), "405"},
		{"CONNECT", []string{":method", "CONNECT", ":authority", testHost}, "405"},
		{"extended CONNECT", rawRequest(":protocol", "websocket"), "400"},
		{"a pseudo-header twice", rawRequest(":path", "/b"), "400"},
		{"a pseudo-header after fields", []string{":method", "GET", ":scheme", "https", "x", "y", ":authority", testHost, ":path", "/"}, "400"},
		{":status in a request", rawRequest(":status", "200"), "400"},
		{"201 fields", rawRequest(strings.Split(strings.Repeat("x,y,", 201), ",")...), "431"},
	} {
		t.Run("it refuses "+test.name, func(t *testing.T) {
			p := rig.rawClient()
			p.headers(1, true, test.fields...)
			if o := p.outcome(1); o.status != test.status {
				t.Errorf("got %+v, want status %s", o, test.status)
			}
			p.headers(3, true, rawRequest()...)
			if o := p.outcome(3); o.status != "200" {
				t.Errorf("the next request: got %+v, want status 200", o)
			}
			if n := reached.Swap(0); n != 1 {
				t.Errorf("%d requests reached the upstream, want the good one only", n)
			}
		})
	}
}

func TestHTTP2CanonicalAuthority(t *testing.T) {
	rig := newH2Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) })
	for _, authority := range []string{testHost, strings.ToUpper(testHost), testHost + ".", testHost + ":443"} {
		req := newRequest(t, "GET", "/", nil)
		req.Host = authority
		if res, body := rig.fetch(rig.client(), req); string(body) != testHost {
			t.Errorf("%q: got %d, and the upstream read %q, want %q", authority, res.StatusCode, body, testHost)
		}
	}
}

func TestHTTP2EnforcesTheWindow(t *testing.T) {
	rig := newH2Rig(t)
	rig.rawUpstream(func(p *rawPeer) {
		for id := p.next(); id != 0; id = p.next() {
		}
	})
	p := rig.rawClient()
	p.headers(1, false, rawRequest()...)
	for range 9 {
		p.fr.WriteData(1, false, make([]byte, 16384))
	}
	if o := p.outcome(1); o.goAway != http2.ErrCodeFlowControl {
		t.Errorf("got %+v, want GOAWAY %v", o, http2.ErrCodeFlowControl)
	}
}

func TestHTTP2BoundsHPACKBombs(t *testing.T) {
	rig := newH2Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {})
	p := rig.rawClient()
	block := p.block(rawRequest()...)
	p.buf.Reset()
	p.enc.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("v", 3500)})
	block = append(block, p.buf.Bytes()...)
	block = append(block, bytes.Repeat([]byte{0x80 | 62}, 10_000)...) // 35 MiB of references to it
	p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true, EndHeaders: true})
	if o := p.outcome(1); o.status != "431" {
		t.Errorf("got %+v, want status 431", o)
	}
	p.headers(3, true, rawRequest("x", strings.Repeat("v", 3500))...)
	if o := p.outcome(3); o.status != "200" {
		t.Errorf("the next request, which refers to the table: got %+v, want status 200", o)
	}
}

// A header block means the same wherever it is cut.
func TestHTTP2ContinuationAtEveryOffset(t *testing.T) {
	rig := newH2Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+testKey {
			t.Errorf("the upstream got another key")
		}
	})
	p := rig.rawClient()
	plain := hpack.NewEncoder(&p.buf)
	plain.SetMaxDynamicTableSizeLimit(0)
	id := uint32(1)
	for _, test := range []struct{ authority, status string }{{testHost, "200"}, {"evil.example.com", "421"}} {
		p.buf.Reset()
		fields := rawRequest("authorization", "Bearer "+testPlaceholder, "x-other", "value")
		fields[5] = test.authority
		for i := 0; i < len(fields); i += 2 {
			plain.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		block := bytes.Clone(p.buf.Bytes())
		for cut := range len(block) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block[:cut], EndStream: true})
			p.fr.WriteContinuation(id, true, block[cut:])
			if o := p.outcome(id); o.status != test.status {
				t.Fatalf("cut at %d of %d: got %+v, want status %s", cut, len(block), o, test.status)
			}
			id += 2
		}
	}
}

// rawUpstream serves one connection by hand.
func (rig *h2rig) rawUpstream(serve func(p *rawPeer)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := rig.upstream.Accept()
			if err != nil {
				return
			}
			if c.(*tls.Conn).Handshake() != nil {
				c.Close()
				continue
			}
			io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
			p := newRawPeer(rig.t, c)
			p.fr.WriteSettings()
			serve(p)
			c.Close()
		}
	}()
	rig.t.Cleanup(func() {
		rig.upstream.Close()
		<-done
	})
}

// next waits for a request and returns its stream.
func (p *rawPeer) next() uint32 {
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			return 0
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			return f.StreamID
		case *http2.SettingsFrame:
			if !f.IsAck() {
				p.fr.WriteSettingsAck()
			}
		}
	}
}

func TestHTTP2HostileUpstreams(t *testing.T) {
	for _, test := range []struct {
		name   string
		status string
		serve  func(p *rawPeer, id uint32)
	}{
		{"a push", "502", func(p *rawPeer, id uint32) {
			p.fr.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, BlockFragment: p.block(rawRequest()...), EndHeaders: true})
		}},
		{"DATA before the head", "502", func(p *rawPeer, id uint32) { p.fr.WriteData(id, true, []byte("x")) }},
		{"101", "502", func(p *rawPeer, id uint32) { p.headers(id, false, ":status", "101") }},
		{"no status", "502", func(p *rawPeer, id uint32) { p.headers(id, true, "a", "b") }},
		{"an upper-case name", "502", func(p *rawPeer, id uint32) { p.headers(id, true, ":status", "200", "A", "b") }},
		{"CR LF in a value", "502", func(p *rawPeer, id uint32) { p.headers(id, true, ":status", "200", "a", "b\r\nc: d") }},
		{"connection", "502", func(p *rawPeer, id uint32) { p.headers(id, true, ":status", "200", "connection", "close") }},
		{"endless 1xx", "502", func(p *rawPeer, id uint32) {
			for range 100 {
				p.headers(id, false, ":status", "103")
			}
		}},
		{"a stream that nobody opened", "502", func(p *rawPeer, id uint32) { p.headers(id+2, true, ":status", "200") }},
		{"a CONTINUATION flood", "502", func(p *rawPeer, id uint32) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(":status", "200")})
			for range 100 {
				p.fr.WriteContinuation(id, false, nil)
			}
		}},
	} {
		t.Run("it answers for "+test.name, func(t *testing.T) {
			rig := newH2Rig(t)
			rig.rawUpstream(func(p *rawPeer) {
				if id := p.next(); id != 0 {
					test.serve(p, id)
					p.next()
				}
			})
			p := rig.rawClient()
			p.headers(1, true, rawRequest()...)
			var last outcome
			for last.status == "" || last.status[0] == '1' {
				if last = p.outcome(1); last.closed || last.goAway != 0 {
					break
				}
			}
			if last.status != test.status {
				t.Errorf("got %+v, want status %s", last, test.status)
			}
		})
	}
}

// The upstream's limits are the client's, except where ours are smaller.
func TestHTTP2RelaysSettings(t *testing.T) {
	rig := newH2Rig(t)
	rig.rawUpstream(func(p *rawPeer) {
		p.fr.WriteSettings(
			http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 7},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1234},
			http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20},
			http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1},
			http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		p.fr.WriteGoAway(1, http2.ErrCodeNo, []byte("bye"))
		p.next()
	})
	p := rig.rawClient()
	var got []string
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
			s.ForeachSetting(func(s http2.Setting) error {
				got = append(got, fmt.Sprintf("%d=%d", s.ID, s.Val))
				return nil
			})
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			if g.LastStreamID != 1 || string(g.DebugData()) != "bye" {
				t.Errorf("GOAWAY: got last stream %d, %q", g.LastStreamID, g.DebugData())
			}
			break
		}
	}
	if want := "3=256 6=65536 3=7 4=1234"; strings.Join(got, " ") != want {
		t.Errorf("settings: got %v, want %s", got, want)
	}
}

func TestHTTP2AnswersForRefusedNames(t *testing.T) {
	rig := newH2Rig(t, func(d *testDialer) { d.err = errors.New("no route") })
	c := rig.client()
	for range 3 {
		res, body := rig.fetch(c, newRequest(t, "POST", "/", strings.NewReader("body")))
		if res.StatusCode != 502 || res.Header.Get("X-Superserve-Error") != faultNoAnswer.Reason {
			t.Errorf("got %d %s", res.StatusCode, body)
		}
	}
}
