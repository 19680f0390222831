package redact

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
)

// message frames p.
func message(flags byte, p []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(p))), p...)
}

// packedMessage frames p under coding.
func packedMessage(t testing.TB, coding string, p []byte) []byte {
	return message(flagCompressed, compressed(t, coding, p))
}

// unpackAll reads messages to their end and says whether nothing is left of them.
func unpackAll(t testing.TB, coding string, r io.Reader, size int) ([]byte, error) {
	t.Helper()
	d, err := DecodeMessages(coding, r)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	buf := make([]byte, size)
	for err == nil {
		var n int
		n, err = d.Read(buf)
		out = append(out, buf[:n]...)
	}
	d.(io.Closer).Close()
	if m := d.(*messages); m.packed.buf != nil || m.packed.took != 0 || m.body != nil {
		t.Errorf("a message is left after %v", err)
	}
	if err == io.EOF {
		err = nil
	}
	return out, err
}

func TestDecodeMessages(t *testing.T) {
	short, long := []byte("hello, hello"), bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	for coding, name := range compressions() {
		t.Run("it undoes "+coding, func(t *testing.T) {
			wire := slices.Concat(packedMessage(t, coding, short), message(0, long), packedMessage(t, coding, long), message(0, nil),
				message(0x80|flagCompressed, compressed(t, coding, short)), message(2, short), packedMessage(t, coding, nil), message(flagCompressed, nil))
			want := slices.Concat(message(0, short), message(0, long), message(0, long), message(0, nil),
				message(0x80, short), message(2, short), message(0, nil), message(0, nil))
			for _, size := range []int{1, 7, 512, 16 << 10, 1 << 20} {
				for kind, r := range map[string]io.Reader{
					"whole": bytes.NewReader(wire), "by bytes": iotest.OneByteReader(bytes.NewReader(wire)), "data with EOF": iotest.DataErrReader(bytes.NewReader(wire)),
				} {
					if got, err := unpackAll(t, name, r, size); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s, %d bytes at once: got %d bytes, %v; want %d", kind, size, len(got), err, len(want))
					}
				}
			}
		})
	}
}

func TestDecodeMessagesRefuses(t *testing.T) {
	for _, coding := range []string{"", "identity", "snappy", "gzip, gzip", "gzip;q=1"} {
		if _, err := DecodeMessages(coding, nil); !errors.Is(err, ErrCoding) {
			t.Errorf("%q: got %v; want ErrCoding", coding, err)
		}
	}
	good := packedMessage(t, "gzip", []byte("hello"))
	flipped := bytes.Clone(good)
	flipped[len(flipped)-8]++ // of the sum
	tooLong := func(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{flagCompressed}, n) }
	for _, tt := range []struct {
		name string
		wire []byte
		want error // nil: any
	}{
		{"half a prefix", good[:3], io.ErrUnexpectedEOF},
		{"no more than a prefix", good[:5], io.ErrUnexpectedEOF},
		{"half a message", good[:len(good)-1], io.ErrUnexpectedEOF},
		{"half a message that is not compressed", message(0, []byte("hello"))[:7], io.ErrUnexpectedEOF},
		{"a length that is too small", append(message(flagCompressed, good[5:len(good)-1]), good[len(good)-1]), nil},
		{"a length that is too large", append(message(flagCompressed, slices.Concat(good[5:], []byte("x"))), good...), nil},
		{"a wrong sum", flipped, gzip.ErrChecksum},
		{"no gzip", message(flagCompressed, []byte("not compressed at all")), gzip.ErrHeader},
		{"more than may be kept", tooLong(maxPacked + 1), ErrExpansion},
		{"the largest length there is", tooLong(1<<32 - 1), ErrExpansion},
		{"the largest length that is taken, and no such message", tooLong(maxPacked), io.ErrUnexpectedEOF},
	} {
		t.Run("it refuses "+tt.name, func(t *testing.T) {
			first := packedMessage(t, "gzip", []byte("the first"))
			got, err := unpackAll(t, "gzip", bytes.NewReader(append(first, tt.wire...)), 4096)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v; want %v", err, tt.want)
			}
			if want := message(0, []byte("the first")); !bytes.HasPrefix(got, want) || bytes.Contains(got[len(want):], []byte{flagCompressed, 0, 0, 0}) {
				t.Errorf("got %q; want the first message", got)
			}
		})
	}
	if packedRoom.free != maxPackedAll {
		t.Errorf("%d bytes of room are left, want %d", packedRoom.free, maxPackedAll)
	}
}

// TestMessageBombs: one message, and many that are each below the bounds.
func TestMessageBombs(t *testing.T) {
	for coding, name := range compressions() {
		t.Run("it refuses a bomb of "+coding, func(t *testing.T) {
			one := packedMessage(t, coding, make([]byte, maxUnpacked+1))
			got, err := unpackAll(t, name, bytes.NewReader(one), 4096)
			if err == nil || len(got) > 0 {
				t.Errorf("one of %d bytes: got %d bytes, %v", len(one), len(got), err)
			}
			small := packedMessage(t, coding, make([]byte, 1<<20))
			many := bytes.Repeat(small, 64)
			got, err = unpackAll(t, name, bytes.NewReader(many), 4096)
			if !errors.Is(err, ErrExpansion) || len(got) > freeExpansion+maxRatio*len(many) || len(got)%(messagePrefix+1<<20) != 0 {
				t.Errorf("many of %d bytes: got %d bytes, %v; want ErrExpansion", len(small), len(got), err)
			}
		})
	}
}

// TestMessagesDoNotWait: a message comes out before the next goes in.
func TestMessagesDoNotWait(t *testing.T) {
	in, out := io.Pipe()
	defer in.Close()
	d, err := DecodeMessages("gzip", in)
	if err != nil {
		t.Fatal(err)
	}
	defer d.(io.Closer).Close()
	for _, text := range []string{"one", strings.Repeat("two, ", 10_000)} {
		for _, wire := range [][]byte{packedMessage(t, "gzip", []byte(text)), message(0, []byte(text))} {
			go out.Write(wire)
			want := message(0, []byte(text))
			got := make([]byte, len(want))
			if _, err := io.ReadFull(d, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %d bytes, %v; want %d", len(got), err, len(want))
			}
		}
	}
}

// TestMessagesShareRoom: when messages take all that there is, one more waits until one of them was read, or let go of.
func TestMessagesShareRoom(t *testing.T) {
	r := &room{free: 10, freed: make(chan struct{})}
	for range 2 {
		if err := r.enter(5); err != nil {
			t.Fatal(err)
		}
	}
	entered := make(chan error)
	for range 2 {
		go func() { entered <- r.enter(4) }()
	}
	select {
	case err := <-entered:
		t.Fatalf("one more did not wait: %v", err)
	default:
	}
	r.leave(5)
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
	r.leave(5)
	if err := <-entered; err != nil || r.free != 2 {
		t.Fatalf("%v; %d are free, want 2", err, r.free)
	}
}

// relayMessages does what package web does with an answer of messages: decode, redact, and let go at the end of each.
func relayMessages(t testing.TB, s *Set, coding string, in io.Reader, size int) ([]byte, error) {
	t.Helper()
	d, err := DecodeMessages(coding, in)
	if err != nil {
		t.Fatal(err)
	}
	defer d.(io.Closer).Close()
	var out []byte
	var frames Messages
	st, buf := s.Stream(), make([]byte, size)
	for {
		n, err := d.Read(buf)
		if !frames.Pass(buf[:n]) {
			t.Fatal("a message is still compressed")
		}
		if out = st.Append(out, buf[:n]); frames.Whole() {
			out = st.Release(out)
		}
		if errors.Is(err, io.EOF) {
			return st.Flush(out), nil
		}
		if err != nil {
			return out, err
		}
	}
}

// TestEverySpellingInMessages sends every spelling of a key in compressed messages, split at every offset.
func TestEverySpellingInMessages(t *testing.T) {
	const key, fake = "sk_live_p@:/%+&=#\"<>~ x51Hq?", "sk_live_mARKeR01abcdefghijkl"
	s := New([]Pair{{Secret: secret(key), Placeholder: fake, Before: "u:"}})
	text := everything(key)
	clear := trusting(s, text)
	want := slices.Concat(message(0, clear), message(0, clear))
	for coding, name := range compressions() {
		wire := slices.Concat(packedMessage(t, coding, text), message(0, text))
		for cut := range wire {
			s.probes.Store(0)
			in := iotest.DataErrReader(io.MultiReader(bytes.NewReader(wire[:cut]), bytes.NewReader(wire[cut:])))
			if got, err := relayMessages(t, s, name, in, 1+cut%997); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s cut at %d: got %d bytes, %v; want %d", coding, cut, len(got), err, len(want))
			}
		}
	}
}

// TestKeyOverTwoMessages is what docs/THREAT_MODEL.md says of a key that an upstream sends in two messages: a prefix is
// between its halves, which are no spelling of it.
func TestKeyOverTwoMessages(t *testing.T) {
	const key, fake = "sk-ant-0123456789abcdef", "sk-ant-mARKeR01xxxxxxxx"
	wire := append(packedMessage(t, "gzip", []byte("a "+key[:12])), packedMessage(t, "gzip", []byte(key[12:]+" "+key))...)
	want := string(message(0, []byte("a "+key[:12]))) + string(message(0, []byte(key[12:]+" "+fake)))
	got, err := relayMessages(t, New([]Pair{pair(key, fake)}), "gzip", bytes.NewReader(wire), 4096)
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// TestRelease: what a message ends in comes out with it, and what follows is searched as if it had not.
func TestRelease(t *testing.T) {
	const key, fake = "sk-ant-0123456789abcdef", "sk-ant-mARKeR01xxxxxxxx"
	for _, tt := range []struct{ first, out, next, rest string }{
		{"data", "data", "!", "!"},
		{"datas", "datas", "!", "!"},
		{"data sk-ant-", "data sk-ant-", "!", "!"},
		{"data sk-ant-012", "data sk-ant-012", key[10:], fake[10:]},
		{"data sk-ant-0123", "data ", key[11:], fake},
		{"data sk-ant-0123", "data ", "!", "sk-ant-0123!"},
		{"s", "s", "s" + key, "s" + fake},
		{key + "s", fake + "s", key[1:] + "s", fake[1:]}, // and an s that is held
	} {
		s := New([]Pair{pair(key, fake)})
		st := s.Stream()
		out := string(st.Release(st.Append(nil, []byte(tt.first))))
		rest := string(st.Append(nil, []byte(tt.next)))
		if out != tt.out || rest != tt.rest {
			t.Errorf("%q then %q: got %q then %q; want %q then %q", tt.first, tt.next, out, rest, tt.out, tt.rest)
		}
	}
	s := New([]Pair{pair(key, fake)})
	var got []byte
	for st, i := s.Stream(), 0; i < len(key); i++ {
		if got = st.Release(st.Append(got, []byte(key[i:i+1]))); i == len(key)-1 {
			got = st.Flush(got)
		}
	}
	if want := key[:len("sk-ant-")+guessed-1] + fake[len("sk-ant-")+guessed-1:]; string(got) != want {
		t.Errorf("byte by byte: got %q; want %q", got, want)
	}
	st := New([]Pair{pair("abcd", "wxyz")}).Stream()
	if out := st.Release(st.Append(nil, []byte("1a"))); string(out) != "1a" {
		t.Errorf("of a short key: got %q", out)
	}
	if out := st.Release(st.Append(nil, []byte("b"))); len(out) > 0 || st.Held() != 1 || st.Drop() != 1 || st.Held() != 0 {
		t.Errorf("of half a short key: got %q", out)
	}
}

// FuzzMessages has the bytes of messages as they come, or a text with the key sown in it that is compressed here: no form
// of the key comes out, however both are cut and whatever is wrong with them.
func FuzzMessages(f *testing.F) {
	const key, fake = "sk_live_p@:/%+&=#\"<>~ x51Hq?", "\x00\x01\x02\x03\x00\x01\x02\x03"
	f.Add("gzip", slices.Concat(packedMessage(f, "gzip", []byte(key)), message(0, []byte(key))), uint16(9), uint16(40), uint8(0))
	f.Add("zstd", []byte("text, text"), uint16(5), uint16(3), uint8(1))
	f.Add("br", everything(key), uint16(100), uint16(1), uint8(3))
	f.Add("deflate", message(flagCompressed, []byte("garbage")), uint16(0), uint16(7), uint8(2))
	f.Add("gzip", []byte("s"+key), uint16(8), uint16(1), uint8(4))
	s := New([]Pair{{Secret: secret(key), Placeholder: fake, Before: "u:"}})
	f.Fuzz(func(t *testing.T, coding string, wire []byte, at, size uint16, how uint8) {
		if len(wire) > 8192 || !slices.Contains([]string{"gzip", "br", "zstd", "deflate"}, coding) {
			return
		}
		s.probes.Store(0)
		if how&1 != 0 {
			wire = sow(wire, key, int(at))
			if how&2 != 0 {
				half := int(at) % (len(wire) + 1)
				wire = append(packedMessage(t, coding, wire[:half]), packedMessage(t, coding, wire[half:])...)
			} else {
				wire = append(packedMessage(t, coding, wire), message(how&^flagCompressed, wire)...)
			}
		}
		var in io.Reader = bytes.NewReader(wire)
		if how&4 != 0 {
			in = iotest.OneByteReader(in)
		}
		got, _ := relayMessages(t, s, coding, in, 1+int(size))
		for i := range s.forms {
			if form := s.forms[i].needle; len(form) > 2*guessed && bytes.Contains(got, form) {
				t.Fatalf("form %q is in %q", form, got)
			}
		}
		if packedRoom.free != maxPackedAll {
			t.Fatalf("%d bytes of room are taken", maxPackedAll-packedRoom.free)
		}
	})
}

// sow puts a key, and one in base64, into a copy of text.
func sow(text []byte, key string, at int) []byte {
	at %= len(text) + 1
	return slices.Concat(text[:at], []byte(key), text[at:], []byte(base64.StdEncoding.EncodeToString([]byte("u:"+key))))
}
