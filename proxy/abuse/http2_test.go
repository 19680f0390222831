package abuse

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// peer is a client of HTTP/2 that keeps no rule. Writes are buffered, so that an attack costs the attacker little.
type peer struct {
	t   *testing.T
	c   net.Conn
	w   *bufio.Writer
	fr  *http2.Framer
	enc *hpack.Encoder
	buf bytes.Buffer

	gone  chan struct{} // closed when the proxy has closed the connection
	mu    sync.Mutex
	code  http2.ErrCode // of GOAWAY
	seen  map[uint32]string
	ended int           // answers whose trailers came
	more  chan struct{} // a token for each change of seen
}

// attack connects, says settings and lets a goroutine read what comes.
func (v *victim) attack(settings ...http2.Setting) *peer {
	v.t.Helper()
	c := v.dial("h2")
	if err := c.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		v.t.Fatal(err)
	}
	p := &peer{t: v.t, c: c.NetConn(), w: bufio.NewWriterSize(c, 16<<10), gone: make(chan struct{}), seen: map[uint32]string{}, more: make(chan struct{}, 1)}
	p.fr = http2.NewFramer(p.w, c)
	p.fr.AllowIllegalWrites = true
	p.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.enc = hpack.NewEncoder(&p.buf)
	io.WriteString(p.w, http2.ClientPreface)
	p.fr.WriteSettings(settings...)
	go p.read()
	v.t.Cleanup(func() {
		c.NetConn().Close()
		<-p.gone
	})
	return p
}

// read notes how streams end. It acknowledges nothing, so that it does not write beside the attack.
func (p *peer) read() {
	defer close(p.gone)
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			return
		}
		p.mu.Lock()
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if status := f.PseudoValue("status"); status != "" {
				p.seen[f.StreamID] = status
			} else {
				p.ended++
			}
		case *http2.RSTStreamFrame:
			if p.seen[f.StreamID] == "" {
				p.seen[f.StreamID] = f.ErrCode.String()
			}
		case *http2.GoAwayFrame:
			p.code = f.ErrCode
		}
		p.mu.Unlock()
		select {
		case p.more <- struct{}{}:
		default:
		}
	}
}

// leave closes the connection.
func (p *peer) leave() {
	p.c.Close()
	<-p.gone
}

// outcome waits for what became of a stream.
func (p *peer) outcome(id uint32) string {
	p.w.Flush()
	for {
		p.mu.Lock()
		s := p.seen[id]
		p.mu.Unlock()
		if s != "" {
			return s
		}
		select {
		case <-p.more:
		case <-p.gone:
			return "closed"
		}
	}
}

func (p *peer) block(fields ...string) []byte {
	p.buf.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(p.buf.Bytes())
}

func request(method, path string, more ...string) []string {
	return append([]string{":method", method, ":scheme", "https", ":authority", host, ":path", path}, more...)
}

func keyed(path string, more ...string) []string {
	return request("GET", path, append([]string{"authorization", "Bearer " + placeholder}, more...)...)
}

func (p *peer) headers(id uint32, end bool, fields ...string) error {
	return p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(fields...), EndStream: end, EndHeaders: true})
}

// flood writes frames until the proxy closes the connection.
func (p *peer) flood(write func(i int) error) {
	for i := 0; ; i++ {
		if i == 20_000_000 {
			p.t.Error("the flood is never refused")
			return
		}
		if err := write(i); err != nil {
			<-p.gone
			return
		}
	}
}

// flooding is an attack of frames without end: flood returns what writes the next ones.
type flooding struct {
	name  string
	flood func(p *peer) func(i int) error
}

// resetFloods make the proxy open streams that come to nothing.
func resetFloods() []flooding {
	return []flooding{
		{"rapid reset", func(p *peer) func(int) error {
			return func(i int) error {
				id := uint32(2*i + 1)
				return errors.Join(p.headers(id, true, keyed("/wait")...), p.fr.WriteRSTStream(id, http2.ErrCodeCancel))
			}
		}},
		{"made you reset by a window", func(p *peer) func(int) error {
			return func(i int) error {
				id := uint32(2*i + 1)
				return errors.Join(p.headers(id, false, keyed("/wait")...), p.fr.WriteWindowUpdate(id, 0))
			}
		}},
		{"made you reset by a length", func(p *peer) func(int) error {
			return func(i int) error {
				id := uint32(2*i + 1)
				return errors.Join(p.headers(id, false, request("POST", "/wait", "content-length", "1")...), p.fr.WriteData(id, true, []byte("two")))
			}
		}},
		{"malformed requests", func(p *peer) func(int) error {
			return func(i int) error { return p.headers(uint32(2*i+1), true, request("GET", "/", "Upper", "1")...) }
		}},
	}
}

// frameFloods are of frames that bring nothing forward.
func frameFloods() []flooding {
	full := bytes.Repeat([]byte("0"), 16384)
	return []flooding{
		{"CONTINUATION, empty", func(p *peer) func(int) error {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(request("GET", "/")...)})
			return func(i int) error { return p.fr.WriteContinuation(1, false, nil) }
		}},
		{"CONTINUATION, full", func(p *peer) func(int) error {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(request("GET", "/")...)})
			return func(i int) error { return p.fr.WriteContinuation(1, false, full) }
		}},
		{"PING", func(p *peer) func(int) error {
			return func(i int) error { return p.fr.WritePing(false, [8]byte{}) }
		}},
		{"PING acknowledgements", func(p *peer) func(int) error {
			return func(i int) error { return p.fr.WritePing(true, [8]byte{}) }
		}},
		{"SETTINGS", func(p *peer) func(int) error {
			return func(i int) error {
				return p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i % 65536)})
			}
		}},
		{"SETTINGS of a table", func(p *peer) func(int) error {
			return func(i int) error {
				return p.fr.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(i % 4096)})
			}
		}},
		{"PRIORITY", func(p *peer) func(int) error {
			return func(i int) error { return p.fr.WritePriority(uint32(2*i+1), http2.PriorityParam{StreamDep: 1}) }
		}},
		{"WINDOW_UPDATE", func(p *peer) func(int) error {
			p.headers(1, true, keyed("/wait")...)
			return func(i int) error { return p.fr.WriteWindowUpdate(1, 1) }
		}},
		{"empty DATA", func(p *peer) func(int) error {
			p.headers(1, false, request("POST", "/wait")...)
			return func(i int) error { return p.fr.WriteData(1, false, nil) }
		}},
		{"padded DATA", func(p *peer) func(int) error {
			p.headers(1, false, request("POST", "/wait")...)
			return func(i int) error { return p.fr.WriteDataPadded(1, false, nil, full[:200]) }
		}},
		{"unknown frames", func(p *peer) func(int) error {
			return func(i int) error { return p.fr.WriteRawFrame(0x5f, 0, 0, nil) }
		}},
		{"unknown frames, full", func(p *peer) func(int) error {
			return func(i int) error { return p.fr.WriteRawFrame(0x5f, 0, 0, full) }
		}},
	}
}

// TestHTTP2Floods: each ends the connection within a second, with at most a processor's second of work, and costs
// no memory to speak of.
func TestHTTP2Floods(t *testing.T) {
	v := start(t, newUpstream(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	for _, c := range append(resetFloods(), frameFloods()...) {
		t.Run(c.name, func(t *testing.T) {
			before, files := v.stats("gc"), v.files()
			v := v.in1(t)
			p := v.attack()
			v.measure(func() { p.flood(c.flood(p)) }).within(t, cost{Peak: 8 * MiB, CPU: time.Second, Took: time.Second})
			if p.code == http2.ErrCodeNo {
				t.Logf("the GOAWAY was lost to a reset")
			}
			v.settles(before, files)
		})
	}
}

// TestHeaderBlockIsCutOff: twice the limit of a header block, and not a byte more, is enough to be refused.
func TestHeaderBlockIsCutOff(t *testing.T) {
	v := start(t, newUpstream(t, nil))
	p := v.attack()
	v.measure(func() {
		p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(request("GET", "/")...)})
		for range 8 {
			p.fr.WriteContinuation(1, false, bytes.Repeat([]byte{0x82}, 16384))
		}
		p.w.Flush()
		<-p.gone
	}).within(t, cost{Peak: 8 * MiB, CPU: time.Second / 2, Took: time.Second})
	if p.code != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("GOAWAY %v, want %v", p.code, http2.ErrCodeEnhanceYourCalm)
	}
}

// TestHPACKBomb: 100 header blocks of 20 KiB that stand for 70 MiB each. Each is refused, and none is built.
func TestHPACKBomb(t *testing.T) {
	v := start(t, newUpstream(t, nil))
	p := v.attack()
	p.headers(1, true, request("GET", "/ok", "x", strings.Repeat("v", 3500))...) // into the table
	if got := p.outcome(1); got != "200" {
		t.Fatal(got)
	}
	v.measure(func() {
		for i := range uint32(100) {
			id := 2*i + 3
			block := append(p.block(request("GET", "/")...), bytes.Repeat([]byte{0x80 | 62 + 0}, 16000)...)
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndStream: true, EndHeaders: true})
			if got := p.outcome(id); got != "431" {
				t.Errorf("block %d: %s, want 431", i, got)
				return
			}
		}
	}).within(t, cost{Peak: 8 * MiB, CPU: time.Second})
}

// TestTrailerBomb is GO-2026-6603's: a head that announces trailers without end, then trailers of the same size, on
// as many streams as there may be.
func TestTrailerBomb(t *testing.T) {
	v := start(t, newUpstream(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	p := v.attack()
	names := strings.TrimSuffix(strings.Repeat("a,", 7500), ",")
	v.measure(func() {
		for i := range uint32(250) {
			id := 2*i + 1
			p.headers(id, false, request("POST", "/wait", "trailer", names)...)
			var trailers []string
			for range 180 {
				trailers = append(trailers, "x", strings.Repeat("t", 80))
			}
			p.headers(id, true, trailers...)
		}
		for i := range uint32(250) {
			p.outcome(2*i + 1)
		}
	}).within(t, cost{Peak: 8 * MiB, CPU: 2 * time.Second})
}

// TestZeroWindow: answers without end for which the client gives no window, on many streams of several connections,
// with and without a key: nothing is read from the upstream that nobody may be sent.
func TestZeroWindow(t *testing.T) {
	const conns, streams = 8, 250
	v := start(t, newUpstream(t, nil))
	none := http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}
	var peers []*peer
	for range conns {
		peers = append(peers, v.attack(none))
	}
	c := v.measure(func() {
		for _, p := range peers {
			for i := range uint32(streams) {
				p.headers(2*i+1, true, keyed("/big")...)
			}
		}
		for _, p := range peers {
			for i := range uint32(streams) {
				if got := p.outcome(2*i + 1); got != "200" {
					t.Errorf("stream %d: %s", 2*i+1, got)
					return
				}
			}
		}
	})
	c.within(t, cost{Peak: conns * 8 * MiB, CPU: 3 * time.Second})
}

// maxWindow are the settings of a client that reads as fast as it can be sent.
var maxWindow = []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1}}
