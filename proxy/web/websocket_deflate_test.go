package web

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/klauspost/compress/flate"

	"github.com/superserve/superserve/proxy/redact"
)

func TestDeflateOffers(t *testing.T) {
	for in, want := range map[string]string{
		"permessage-deflate":                                                         "permessage-deflate",
		"permessage-deflate; client_max_window_bits":                                 "permessage-deflate; client_max_window_bits",
		"x-webkit-deflate-frame, Permessage-Deflate; a":                              "",
		"foo;b=1 , permessage-deflate;server_max_window_bits=15":                     "permessage-deflate;server_max_window_bits=15",
		"permessage-deflate; server_max_window_bits=7":                               "",
		"permessage-deflate; server_max_window_bits=08":                              "",
		"permessage-deflate; server_no_context_takeover=1":                           "",
		"permessage-deflate; client_no_context_takeover; client_no_context_takeover": "",
		`permessage-deflate; server_max_window_bits="10"`:                            "",
		"permessage-deflate; client_max_window_bits=8, permessage-deflate":           "permessage-deflate; client_max_window_bits=8, permessage-deflate",
	} {
		h := requestHead{}
		if ref := h.fieldLines.parse([]byte("Sec-WebSocket-Extensions: " + in + "\r\n\r\n")); ref != nil {
			t.Fatal(ref)
		}
		if want != "" {
			want = "Sec-WebSocket-Extensions: " + want + "\r\n"
		}
		if got := string(h.appendOffers(nil)); got != want {
			t.Errorf("%q goes on as %q, want %q", in, got, want)
		}
	}
}

func TestDeflateAnswers(t *testing.T) {
	const offer = "permessage-deflate; client_max_window_bits"
	for _, tt := range []struct {
		offer, answer string
		ok, deflate   bool
	}{
		{"", "", true, false},
		{offer, "", true, false},
		{offer, "permessage-deflate", true, true},
		{offer, "permessage-deflate; server_no_context_takeover; client_max_window_bits=12", true, true},
		{offer, "permessage-deflate; client_max_window_bits", false, false},
		{offer, "permessage-deflate, permessage-deflate", false, false},
		{offer, "permessage-deflate; mystery", false, false},
		{offer, "x-webkit-deflate-frame", false, false},
		{"x-webkit-deflate-frame", "permessage-deflate", false, false},
		{"", "permessage-deflate", false, false},
	} {
		var r h1relay
		for head, value := range map[*fieldLines]string{&r.req.fieldLines: tt.offer, &r.res.fieldLines: tt.answer} {
			text := "\r\n"
			if value != "" {
				text = "Sec-WebSocket-Extensions: " + value + "\r\n\r\n"
			}
			if ref := head.parse([]byte(text)); ref != nil {
				t.Fatal(ref)
			}
		}
		d, ok := r.negotiated()
		if ok != tt.ok || ok && (d != nil) != tt.deflate {
			t.Errorf("%q to %q: %v %v", tt.answer, tt.offer, d, ok)
		}
	}
}

// pieces is an upstream that gives its bytes in pieces, the last of them together with
// the end.
type pieces struct {
	net.Conn
	data []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	n := copy(b[:min(len(b), p.size)], p.data)
	if p.data = p.data[n:]; len(p.data) == 0 {
		return n, io.EOF
	}
	return n, nil
}

// sink is a client that takes all.
type sink struct {
	net.Conn
	bytes.Buffer
	most int // the longest write, in bytes
}

func (s *sink) Write(p []byte) (int, error) {
	s.most = max(s.most, len(p))
	return s.Buffer.Write(p)
}

func (s *sink) Read(p []byte) (int, error) { return s.Buffer.Read(p) }

// keySet returns what finds testKey.
func keySet() *redact.Set {
	return redact.New([]redact.Pair{{Secret: func() []byte { return []byte(testKey) }, Placeholder: testPlaceholder}})
}

// unpackedBy relays what a server says, in reads of size bytes.
func unpackedBy(in []byte, size int, d deflate) (*sink, error) {
	return unpackedWith(keySet(), in, size, d)
}

func unpackedWith(set *redact.Set, in []byte, size int, d deflate) (*sink, error) {
	out := &sink{}
	r := &h1relay{s: &session{srv: &Server{}, set: set}, texts: &texts{}}
	r.in.conn, r.up.conn = out, &pieces{data: in, size: size}
	err := r.relayFrames(&d)
	r.release()
	return out, err
}

// packer compresses as a server does.
type packer struct {
	w   *flate.Writer
	buf bytes.Buffer
}

func newPacker(t testing.TB) *packer {
	p := &packer{}
	var err error
	if p.w, err = flate.NewWriter(&p.buf, 6); err != nil {
		t.Fatal(err)
	}
	return p
}

// pack returns a message without its tail (RFC 7692 §7.2.1). It may refer to earlier
// ones.
func (p *packer) pack(text string) []byte {
	p.buf.Reset()
	io.WriteString(p.w, text)
	p.w.Flush()
	return bytes.TrimSuffix(bytes.Clone(p.buf.Bytes()), []byte("\x00\x00\xff\xff"))
}

// inFrames cuts a compressed message over frames with a ping between.
func inFrames(message []byte, cuts ...int) []byte {
	var out []byte
	first := byte(1 | wsPacked)
	from := 0
	for _, cut := range cuts {
		out = append(out, frame(first, string(message[from:cut]))...)
		out = append(out, frame(wsFinal|9, "ping"+testKey)...)
		first, from = 0, cut
	}
	return append(out, frame(wsFinal|first, string(message[from:]))...)
}

// TestPackedFrames has the examples of RFC 7692 §7.2.3 and more.
func TestPackedFrames(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"a message":                    {"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello"},
		"one in two frames":            {"\x41\x03\xf2\x48\xcd\x80\x04\xc9\xc9\x07\x00", "Hello"},
		"what refers to earlier":       {"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00\xc1\x05\xf2\x00\x11\x00\x00", "HelloHello"},
		"a stored block":               {"\xc1\x0b\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", "Hello"},
		"a final block":                {"\xc1\x08\xf3\x48\xcd\xc9\xc9\x07\x00\x00", "Hello"},
		"two blocks":                   {"\xc1\x0d\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", "Hello"},
		"an empty message":             {"\xc1\x01\x00", ""},
		"an empty last frame":          {"\x41\x07\xf2\x48\xcd\xc9\xc9\x07\x00\x80\x00", "Hello"},
		"empty frames":                 {"\x41\x00\x00\x00\x00\x07\xf2\x48\xcd\xc9\xc9\x07\x00\x80\x00", "Hello"},
		"a message that is not packed": {"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00\x81\x02hi\xc1\x05\xf2\x00\x11\x00\x00", "HellohiHello"},
	} {
		for size := 1; size <= len(tt.in); size++ {
			out, err := unpackedBy([]byte(tt.in), size, deflate{})
			if err != nil {
				t.Fatalf("%s, in reads of %d: %v", name, size, err)
			}
			if data, _ := message(t, out.Bytes()); data != tt.want {
				t.Errorf("%s, in reads of %d: got %q, want %q", name, size, data, tt.want)
			}
		}
	}
}

// TestPackedSplitAnywhere cuts a compressed message with a key over frames at every
// two offsets, and the bytes over reads.
func TestPackedSplitAnywhere(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		p := newPacker(t)
		text := "a" + testKey + "b" + testKey
		first := p.pack(text)
		if forgets {
			p = newPacker(t)
		}
		second := p.pack(text)
		want := strings.ReplaceAll(text+text, testKey, testPlaceholder)
		for i := range first {
			for j := i; j < len(first); j += 3 {
				in := append(inFrames(first, i, j), inFrames(second, min(i, len(second)))...)
				in = append(in, frame(wsFinal|1, "")...)
				for _, size := range []int{1, 7, len(in)} {
					out, err := unpackedBy(in, size, deflate{forgets: forgets})
					if err != nil {
						t.Fatalf("cut at %d and %d, reads of %d: %v", i, j, size, err)
					}
					data, control := message(t, out.Bytes())
					if data != want || control != strings.Repeat("ping"+testPlaceholder, 3) {
						t.Fatalf("cut at %d and %d, reads of %d: got %q %q", i, j, size, data, control)
					}
				}
			}
		}
	}
}

// TestPackedStreams wants a long message to go on as it comes, in little memory, and
// what a server flushes in its middle not to wait for the rest.
func TestPackedStreams(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, 4<<20)
	for i := range text {
		text[i] = "0123456789abcdef"[rng.IntN(16)]
	}
	copy(text[3<<20:], testKey)
	out, err := unpackedBy(inFrames(newPacker(t).pack(string(text))), 16<<10, deflate{})
	if err != nil {
		t.Fatal(err)
	}
	data, _ := message(t, out.Bytes())
	if want := strings.Replace(string(text), testKey, testPlaceholder, 1); data != want || out.most > 100<<10 {
		t.Errorf("%d bytes came as %d, at most %d in one piece", len(text), len(data), out.most)
	}
	p := newPacker(t)
	half := append(p.pack("first half "), "\x00\x00\xff\xff"...)
	out, err = unpackedBy(frame(1|wsPacked, string(half)), 5, deflate{})
	if !errors.Is(err, errTruncated) {
		t.Errorf("an end in the middle is %v", err)
	}
	if data, _ := message(t, out.Bytes()); data != "first half " {
		t.Errorf("before the rest came %q", data)
	}
}

func TestPackedRefused(t *testing.T) {
	bomb := newPacker(t).pack(strings.Repeat("a", 64<<20))
	final := "\x03\x00" // an empty final block
	for name, in := range map[string][]byte{
		"not deflate":              frame(wsFinal|1|wsPacked, "\xff\xff\xff"),
		"deflate that is cut off":  frame(wsFinal|1|wsPacked, "\xf2\x48\xcd"),
		"a reference to nothing":   frame(wsFinal|1|wsPacked, "\xf2\x00\x11\x00\x00"),
		"a packed continuation":    append(frame(1, "a"), frame(wsFinal|wsPacked, "a")...),
		"the same in a packed one": append(frame(1|wsPacked, "\xf2\x48\xcd"), frame(wsFinal|wsPacked, "\xc9\xc9\x07\x00")...),
		"a packed ping":            frame(wsFinal|9|wsPacked, "a"),
		"another reserved bit":     frame(wsFinal|1|0x20, "a"),
		"a message that explodes":  frame(wsFinal|1|wsPacked, string(bomb)),
		"final blocks for ever":    frame(wsFinal|1|wsPacked, strings.Repeat(final, 100)),
		"a new message inside one": append(frame(1|wsPacked, "\xf2\x48\xcd"), frame(wsFinal|1, "a")...),
	} {
		out, err := unpackedBy(in, 16<<10, deflate{})
		if !errors.Is(err, errFrame) {
			t.Errorf("%s: it ends in %v", name, err)
		}
		if out.Len() > freeMessage+(1<<20) {
			t.Errorf("%s: %d bytes went out", name, out.Len())
		}
	}
	f := testFrames()
	if _, _, ok := f.redact(nil, frame(wsFinal|1|wsPacked, "a")); ok {
		t.Error("a packed message passes that nobody asked for")
	}
}

// FuzzPacked: whatever a server sends, what comes out is well formed and without the
// key; a message that it compressed comes out whole.
func FuzzPacked(f *testing.F) {
	f.Add([]byte("\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00"), "a"+testKey+"b", uint16(3), uint8(1))
	f.Add([]byte("\x41\x03\xf2\x48\xcd\x80\x04\xc9\xc9\x07\x00"), strings.Repeat(testKey, 9), uint16(40), uint8(200))
	p, set := newPacker(f), keySet()
	f.Fuzz(func(t *testing.T, raw []byte, text string, cut uint16, size uint8) {
		if len(text) > 4096 || len(raw) > 4096 {
			return
		}
		p.w.Reset(&p.buf)
		packed := p.pack(text)
		sound := inFrames(packed, int(cut)%(len(packed)+1))
		for _, in := range [][]byte{sound, raw, append(bytes.Clone(sound), raw...)} {
			out, err := unpackedWith(set, in, int(size)+1, deflate{})
			if bytes.Contains(out.Bytes(), []byte(testKey)) {
				t.Fatalf("the key is in %q", out)
			}
			if err != nil {
				continue
			}
			if bytes.Equal(in, sound) {
				if data, _ := message(t, out.Bytes()); len(data) != len(text) || !strings.Contains(text, testKey[:4]) && data != text {
					t.Fatalf("%q comes out as %q", text, data)
				}
			}
			for b := out.Bytes(); len(b) > 0; {
				n, length, ok := parseFrame(b, 0)
				if !ok || n == 0 || n+int(length) > len(b) {
					t.Fatalf("%q became malformed at %q", in, b)
				}
				b = b[n+int(length):]
			}
		}
	})
}

// TestWebSocketWithoutKey has a tunnel that carried no key: what both sides compress
// passes as it is.
func TestWebSocketWithoutKey(t *testing.T) {
	rig := newH1Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			return
		}
		for {
			kind, data, err := c.Read(context.Background())
			if err != nil || c.Write(context.Background(), kind, data) != nil {
				return
			}
		}
	})
	c, res, err := websocket.Dial(t.Context(), "wss://"+testHost+"/", &websocket.DialOptions{HTTPClient: rig.client(), CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		t.Fatal(err)
	}
	if res.Header.Get("Sec-WebSocket-Extensions") == "" {
		t.Error("nothing was negotiated")
	}
	for _, text := range []string{"hi", strings.Repeat("compress me ", 1000), strings.Repeat("compress me ", 1000)} {
		if err := c.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(t.Context()); err != nil || string(got) != text {
			t.Fatalf("%v: %d bytes came back of %d", err, len(got), len(text))
		}
	}
	c.CloseNow()
	<-rig.ended
}

// BenchmarkPacked measures the messages of a server that compresses, by what they hold.
func BenchmarkPacked(b *testing.B) {
	p, text := newPacker(b), strings.Repeat(`{"type":"response.output_text.delta","delta":"Hello","item_id":"msg_1"}`+"\n", 14)
	var in []byte
	for range 1000 {
		in = append(in, inFrames(p.pack(text))...)
	}
	b.SetBytes(int64(1000 * len(text)))
	set := keySet()
	for b.Loop() {
		if _, err := unpackedWith(set, in, 16<<10, deflate{}); err != nil {
			b.Fatal(err)
		}
	}
}
