package redact

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// flusher is what every compressor here is.
type flusher interface {
	io.WriteCloser
	Flush() error
}

func compressor(t testing.TB, coding string, w io.Writer) flusher {
	t.Helper()
	switch coding {
	case "gzip":
		return gzip.NewWriter(w)
	case "br":
		return brotli.NewWriterLevel(w, 5)
	case "deflate":
		return zlib.NewWriter(w)
	case "raw deflate":
		f, err := flate.NewWriter(w, 5)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func compressed(t testing.TB, coding string, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := compressor(t, coding, &b)
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// each coding, and the name it goes by in a Content-Encoding.
func compressions() map[string]string {
	return map[string]string{"gzip": "gzip", "br": "br", "deflate": "deflate", "raw deflate": "deflate", "zstd": "zstd"}
}

func TestDecode(t *testing.T) {
	text := bytes.Repeat([]byte("the quick brown fox, "), 5000)
	for coding, name := range compressions() {
		t.Run("it undoes "+coding, func(t *testing.T) {
			wire := compressed(t, coding, text)
			for kind, r := range map[string]io.Reader{
				"whole": bytes.NewReader(wire), "by bytes": iotest.OneByteReader(bytes.NewReader(wire)), "data with EOF": iotest.DataErrReader(bytes.NewReader(wire)),
			} {
				got, err := decodeAll(name, r)
				if err != nil || !bytes.Equal(got, text) {
					t.Errorf("%s: got %d bytes, %v; want %d", kind, len(got), err, len(text))
				}
			}
		})
		t.Run("it takes an empty body as "+coding, func(t *testing.T) {
			if got, err := decodeAll(name, strings.NewReader("")); len(got) != 0 || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
		t.Run("it refuses a bomb of "+coding, func(t *testing.T) {
			wire := compressed(t, coding, make([]byte, 64<<20))
			got, err := decodeAll(name, bytes.NewReader(wire))
			if !errors.Is(err, ErrExpansion) && !errors.Is(err, zstd.ErrDecoderSizeExceeded) {
				t.Errorf("got %d bytes, %v; want ErrExpansion", len(got), err)
			}
			if len(got) > freeExpansion+maxRatio*len(wire)+1<<20 {
				t.Errorf("got %d bytes out of %d before the error", len(got), len(wire))
			}
		})
	}
}

func decodeAll(coding string, r io.Reader) ([]byte, error) {
	d, err := Decode(coding, r)
	if err != nil {
		return nil, err
	}
	defer d.(io.Closer).Close()
	return io.ReadAll(d)
}

func TestDecodeStacked(t *testing.T) {
	text := []byte("stacked, stacked, stacked")
	wire := compressed(t, "zstd", compressed(t, "br", compressed(t, "gzip", text)))
	got, err := decodeAll("GZIP,identity, br ,, zstd", bytes.NewReader(wire))
	if err != nil || !bytes.Equal(got, text) {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestDecodeNothing(t *testing.T) {
	r := strings.NewReader("x")
	for _, coding := range []string{"", "identity", " Identity , "} {
		got, err := Decode(coding, r)
		if err != nil || got != io.Reader(r) {
			t.Errorf("%q: got %v, %v; want the reader itself", coding, got, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, coding := range []string{"compress", "gzip;q=1", "dcb", "gzip gzip", "gzip,gzip,gzip,gzip", "\x00"} {
		if _, err := Decode(coding, nil); !errors.Is(err, ErrCoding) || Known(coding) {
			t.Errorf("%q: got %v; want ErrCoding", coding, err)
		}
	}
	for _, name := range []string{"gzip", "br", "zstd", "deflate"} {
		if _, err := decodeAll(name, strings.NewReader("\xff\xff\xff\xff\xff\xff\xff\xff not compressed")); err == nil {
			t.Errorf("%s: took garbage", name)
		}
	}
}

// TestDecodeDoesNotWait sends flushed events: each must come out before the next
// goes in.
func TestDecodeDoesNotWait(t *testing.T) {
	for coding, name := range compressions() {
		t.Run("it passes flushed events of "+coding, func(t *testing.T) {
			in, out := io.Pipe()
			defer in.Close()
			w := compressor(t, coding, out)
			step := make(chan struct{})
			go func() {
				for range step {
					io.WriteString(w, "data: event\n\n")
					w.Flush()
				}
				out.Close()
			}()
			defer close(step)
			d, err := Decode(name, in)
			if err != nil {
				t.Fatal(err)
			}
			defer d.(io.Closer).Close()
			for range 3 {
				step <- struct{}{}
				got := make([]byte, len("data: event\n\n"))
				if _, err := io.ReadFull(d, got); err != nil || string(got) != "data: event\n\n" {
					t.Fatalf("got %q, %v", got, err)
				}
			}
		})
	}
}

// TestDecodeKeepsDataBeforeAnError cuts a connection after flushed data.
func TestDecodeKeepsDataBeforeAnError(t *testing.T) {
	broken := errors.New("connection reset")
	for coding, name := range compressions() {
		t.Run("it returns the data of a cut "+coding, func(t *testing.T) {
			var b bytes.Buffer
			w := compressor(t, coding, &b)
			io.WriteString(w, "all of this")
			w.Flush()
			d, err := Decode(name, &cutReader{data: b.Bytes(), err: broken})
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(d)
			if string(got) != "all of this" || !errors.Is(err, broken) {
				t.Fatalf("got %q, %v; want all the data and the error", got, err)
			}
		})
	}
}

// cutReader returns its data together with the error.
type cutReader struct {
	data []byte
	err  error
}

func (c *cutReader) Read(p []byte) (int, error) {
	n := copy(p, c.data)
	c.data = c.data[n:]
	if len(c.data) == 0 {
		return n, c.err
	}
	return n, nil
}

func TestDecodeClosed(t *testing.T) {
	d, err := Decode("zstd", bytes.NewReader(compressed(t, "zstd", []byte("x"))))
	if err != nil {
		t.Fatal(err)
	}
	d.(io.Closer).Close()
	if _, err := d.Read(make([]byte, 1)); err == nil {
		t.Error("a closed decoder still reads")
	}
}

func FuzzDecode(f *testing.F) {
	for coding, name := range compressions() {
		f.Add(name, compressed(f, coding, []byte("some text, some text")))
	}
	f.Add("gzip, br", []byte{})
	f.Fuzz(func(t *testing.T, coding string, wire []byte) {
		d, err := Decode(coding, bytes.NewReader(wire))
		if err != nil {
			return
		}
		n, err := io.Copy(io.Discard, d)
		if n > freeExpansion+int64(maxRatio*len(wire))+1<<20 {
			t.Fatalf("%d bytes came out of %d (%v)", n, len(wire), err)
		}
		if c, ok := d.(io.Closer); ok {
			c.Close()
		}
	})
}
