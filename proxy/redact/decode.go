package redact

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"io"
	"strings"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// Errors of decoding.
var (
	// ErrCoding means that a content coding is unknown, or that there are too many.
	ErrCoding = errors.New("unknown content coding")
	// ErrExpansion means that the data grew beyond what honest data does.
	ErrExpansion = errors.New("compressed data expands too much")
)

const (
	// maxCodings is how many codings may be stacked.
	maxCodings = 3
	// maxRatio is the largest growth in decoding; text and JSON stay below 20.
	maxRatio = 100
	// freeExpansion is how many bytes may come out before the ratio counts: small
	// answers of repeated text reach 1000.
	freeExpansion = 8 << 20
	// maxRest is how many bytes may stand behind the end of a coding; they are dropped.
	maxRest = 64 << 10
	// maxWindow is the largest window that a zstd frame may ask for, in bytes: the
	// 8 MiB of RFC 9659 §3. The format of brotli bounds its own at 16 MiB.
	maxWindow = 8 << 20
)

// Decode returns a reader of what r carries under a Content-Encoding of coding:
// gzip, br, zstd and deflate (zlib's, or raw as some servers send), at most three
// of them stacked, listed in the order in which they were applied (RFC 9110 §8.4).
// "" and "identity" return r itself. Anything else is ErrCoding, whose text does
// not repeat coding.
//
// The reader gives out data as soon as it can be decoded, so that a flushed stream
// of events is not delayed; it returns all data that came before an error, and
// ErrExpansion beyond 100 times the input. Decode itself reads nothing. The first
// Read of br or zstd may wait for its turn, and return ErrCrowd. When the result is
// an io.Closer, Close frees its memory; it does not close r.
func Decode(coding string, r io.Reader) (io.Reader, error) {
	names, err := codings(coding)
	if err != nil || len(names) == 0 {
		return r, err
	}
	whole := &counter{r: r}
	d := &decoder{wire: whole}
	for i := len(names) - 1; i >= 0; i-- {
		d.stages = append(d.stages, &stage{name: names[i]})
	}
	in := io.Reader(whole)
	for _, s := range d.stages {
		s.in = &counter{r: in}
		in = s
	}
	d.out = in
	return d, nil
}

// Known reports whether Decode takes coding.
func Known(coding string) bool {
	_, err := codings(coding)
	return err == nil
}

// codings splits the field's value into canonical names, without identity.
func codings(list string) ([]string, error) {
	var names []string
	for part := range strings.SplitSeq(list, ",") {
		name := strings.ToLower(strings.Trim(part, " \t"))
		switch name {
		case "", "identity":
			continue
		case "x-gzip":
			name = "gzip"
		case "gzip", "br", "zstd", "deflate":
		default:
			return nil, ErrCoding
		}
		if len(names) == maxCodings {
			return nil, fmt.Errorf("more than %d stacked: %w", maxCodings, ErrCoding)
		}
		names = append(names, name)
	}
	return names, nil
}

// counter counts the bytes that pass.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// decoder is all stages together; it compares what comes out with the wire.
type decoder struct {
	wire   *counter
	stages []*stage
	out    io.Reader
	n      int64
}

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.out.Read(p)
	d.n += int64(n)
	switch {
	case expands(d.n, d.wire.n):
		return n, ErrExpansion
	case err != io.EOF:
		return n, err
	case n > 0:
		return n, nil // the end comes with the next Read, and does not delay this one
	}
	return 0, d.finish()
}

// finish reads what stands behind the end of the coding: the end of the wire, so that
// nothing is left of this answer when the next one is read.
func (d *decoder) finish() error {
	n, err := io.Copy(io.Discard, io.LimitReader(d.wire, maxRest))
	switch {
	case err != nil:
		return err
	case n == maxRest:
		return ErrCoding
	}
	return io.EOF
}

// Close frees the memory of every stage.
func (d *decoder) Close() error {
	for _, s := range d.stages {
		s.close()
	}
	return nil
}

func expands(out, in int64) bool { return out > freeExpansion && out/maxRatio > in }

// stage undoes one coding. Its decoder is made at the first read, because most
// decoders read a header when they are made.
type stage struct {
	name string
	in   *counter
	r    io.Reader
	free func()
	n    int64
	err  error
	wide bool // holds a token
}

func (s *stage) Read(p []byte) (int, error) {
	if s.err == nil && s.r == nil {
		if s.err = s.open(); s.err != nil {
			s.release()
		}
	}
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.r.Read(p)
	s.n += int64(n)
	switch {
	case expands(s.n, s.in.n):
		err = ErrExpansion
	case s.in.n == 0 && errors.Is(err, io.ErrUnexpectedEOF):
		err = io.EOF // the answer to a HEAD, or a 304, has a coding and no data
	}
	s.err = err
	if err != nil {
		s.release()
	}
	return n, err
}

func (s *stage) open() (err error) {
	switch s.name {
	case "gzip":
		err = s.openGzip()
	case "br", "zstd":
		err = s.openWide()
	case "deflate":
		s.r, err = openDeflate(s.in)
	}
	return err
}

// gzips are readers to be used again: each has 40 KiB, and a stream of messages needs
// one for each of them.
var gzips = sync.Pool{New: func() any { return new(gzip.Reader) }}

// noGzip is nothing, compressed.
var noGzip = []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00")

func (s *stage) openGzip() error {
	z := gzips.Get().(*gzip.Reader)
	s.r, s.free = z, func() {
		if z.Reset(bytes.NewReader(noGzip)) == nil { // it keeps nothing of s alive
			gzips.Put(z)
		}
	}
	return z.Reset(s.in)
}

// openWide opens a decoder with a window of its own, when it is its turn.
func (s *stage) openWide() error {
	if err := enterWide(); err != nil {
		return err
	}
	s.wide = true
	if s.name == "zstd" {
		return s.openZstd()
	}
	s.r = brotli.NewReader(s.in)
	return nil
}

func (s *stage) openZstd() error {
	d, err := zstd.NewReader(s.in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return err
	}
	s.r, s.free = d, d.Close
	return nil
}

// openDeflate tells zlib's format (RFC 1950 §2.2) from raw deflate, which RFC 9110
// §8.4.1.2 knows to be sent by mistake.
func openDeflate(in io.Reader) (io.Reader, error) {
	b := bufio.NewReader(in)
	head, err := b.Peek(2)
	if err == nil && head[0]&0x0f == 8 && head[0]>>4 <= 7 && (uint(head[0])<<8|uint(head[1]))%31 == 0 {
		return zlib.NewReader(b)
	}
	if len(head) == 0 {
		return nil, err
	}
	return flate.NewReader(b), nil
}

func (s *stage) close() {
	s.release()
	if s.err == nil {
		s.err = io.ErrClosedPipe
	}
}

// release frees the decoder, which will not be read again.
func (s *stage) release() {
	if s.free != nil {
		s.free()
	}
	s.r, s.free = nil, nil
	if s.wide {
		leaveWide()
	}
	s.wide = false
}
