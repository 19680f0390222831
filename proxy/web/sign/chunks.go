package sign

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

// Stream is how the parts of a content are signed, each by itself.
type Stream byte

// The kinds of content.
const (
	// Whole: the content has no signatures of its own.
	Whole Stream = iota
	// SignedChunks: aws-chunked, each chunk with a signature that builds on the one
	// before, the first on the request's.
	SignedChunks
	// SignedTrailer: SignedChunks with a signed trailer at the end.
	SignedTrailer
	// OtherStream: a kind that is not known, as that of event streams or SigV4A.
	OtherStream
)

// StreamOf returns the kind of content that a value of x-amz-content-sha256 announces.
func StreamOf(payload string) Stream {
	switch payload {
	case "STREAMING-AWS4-HMAC-SHA256-PAYLOAD":
		return SignedChunks
	case "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER":
		return SignedTrailer
	case "STREAMING-UNSIGNED-PAYLOAD-TRAILER":
		return Whole
	}
	if len(payload) > len(streamPrefix) && payload[:len(streamPrefix)] == streamPrefix {
		return OtherStream
	}
	return Whole
}

// Limits of a content in signed chunks, in bytes.
const (
	// MaxChunk bounds a chunk's data: a chunk's signature stands before them, so it is
	// held until it is whole. SDKs make chunks of 64 to 128 KiB.
	MaxChunk = 1 << 20
	// maxSizeDigits bounds a chunk's size in hex.
	maxSizeDigits = 8
	// MaxChunkHead is the longest first line of a chunk.
	MaxChunkHead = maxSizeDigits + len(signatureField) + 2*sha256.Size + len(crlf)
	// maxTrailer bounds the trailer with its signature.
	maxTrailer = 8 << 10
)

const (
	crlf             = "\r\n"
	signatureField   = ";chunk-signature="
	trailerSignature = "x-amz-trailer-signature:"
	payloadAlgorithm = Algorithm + "-PAYLOAD"
	trailerAlgorithm = Algorithm + "-TRAILER"
)

// What is wrong with a content in signed chunks.
var (
	ErrChunkForm      = errors.New("sign: the content is not in signed chunks")
	ErrChunkLength    = errors.New("sign: a signed chunk is too long")
	ErrChunkSignature = errors.New("sign: the signature of a chunk is not the secret key's")
)

// Chunks verifies a content in signed chunks while it passes, and signs each chunk
// anew. It holds at most one chunk. What it gives out is as long as what it was given:
// only signatures differ, and all of them have one length. After an error it gives out
// nothing more. It is not safe for concurrent use.
type Chunks struct {
	from, to chain
	trailer  bool
	hold     []byte // the beginning of a chunk or trailer that is not whole
	need     int    // how long that is at least; what it is when head is not 0
	head     int    // length of the held chunk's first line, 0 while it is not whole
	last     bool   // the chunk of size 0 has passed
	done     bool
	err      error
}

// chain is one key's chain of signatures.
type chain struct {
	key      []byte
	scope    string // what stands between the algorithm and the signature before
	previous string
}

// NewChunks returns the Chunks of a request with the signature v, which the secret key
// from made. seed is the signature that the key to gives for the request as it is sent.
func (v *V4) NewChunks(stream Stream, from, to []byte, seed string) *Chunks {
	scope := "\n" + v.Time + "\n" + v.Scope + "\n"
	return &Chunks{
		from:    chain{v.key(from), scope, v.Signature},
		to:      chain{v.key(to), scope, seed},
		trailer: stream == SignedTrailer,
		need:    MaxChunkHead,
	}
}

// sign returns the next signature of the chain for a chunk's hash.
func (c *chain) sign(algorithm string, sum [sha256.Size]byte) string {
	text := algorithm + c.scope + c.previous + "\n"
	if algorithm == payloadAlgorithm {
		text += emptyHash + "\n"
	}
	c.previous = hex.EncodeToString(mac(c.key, text+hex.EncodeToString(sum[:])))
	return c.previous
}

// Held returns how many bytes are held back.
func (c *Chunks) Held() int { return len(c.hold) }

// Need returns how many bytes may have to be held before anything is given out.
func (c *Chunks) Need() int { return c.need }

// Close forgets the keys.
func (c *Chunks) Close() {
	clear(c.from.key)
	clear(c.to.key)
	c.hold, c.err = nil, ErrChunkForm
}

// End says whether the content is whole: ErrChunkForm when it is not.
func (c *Chunks) End() error {
	if c.err == nil && !c.done {
		c.err = ErrChunkForm
	}
	return c.err
}

// Append takes the next bytes of the content and appends to dst what may be sent now.
func (c *Chunks) Append(dst, p []byte) ([]byte, error) {
	before := len(dst)
	for len(p) > 0 && c.err == nil {
		var n int
		if dst, n, c.err = c.next(dst, p); c.err == nil {
			p = p[n:]
		}
	}
	if c.err != nil {
		return dst[:before], c.err
	}
	return dst, nil
}

// next takes n bytes of p: up to the end of a line, a chunk or the trailer.
func (c *Chunks) next(dst, p []byte) (out []byte, n int, err error) {
	switch {
	case c.done:
		return dst, 0, ErrChunkForm
	case c.last:
		return c.takeTrailer(dst, p)
	case c.head == 0:
		n, err = c.takeHead(p)
		return dst, n, err
	}
	n = min(c.need-len(c.hold), len(p))
	c.hold = append(c.hold, p[:n]...)
	if len(c.hold) < c.need {
		return dst, n, nil
	}
	dst, err = c.finish(dst)
	return dst, n, err
}

// takeHead takes up to the end of a chunk's first line and reads it.
func (c *Chunks) takeHead(p []byte) (int, error) {
	n := bytes.IndexByte(p, '\n') + 1
	if n == 0 {
		n = len(p)
	}
	if len(c.hold)+n > MaxChunkHead {
		return 0, ErrChunkForm
	}
	c.hold = append(c.hold, p[:n]...)
	if p[n-1] != '\n' {
		return n, nil
	}
	digits, rest, _ := bytes.Cut(c.hold, []byte(signatureField))
	if len(rest) != 2*sha256.Size+len(crlf) || string(rest[2*sha256.Size:]) != crlf || !isHash(string(rest[:2*sha256.Size])) {
		return 0, ErrChunkForm
	}
	size, ok := parseSize(digits)
	switch {
	case !ok:
		return 0, ErrChunkForm
	case size > MaxChunk:
		return 0, ErrChunkLength
	}
	c.head = len(c.hold)
	c.need = c.head + size + len(crlf)
	if size == 0 && c.trailer {
		c.need = c.head // the trailer stands in place of the empty line
	}
	if c.need > cap(c.hold) {
		c.hold = append(make([]byte, 0, c.need), c.hold...)
	}
	return n, nil
}

// parseSize reads a chunk's size, which is strictly written.
func parseSize(digits []byte) (size int, ok bool) {
	for _, d := range digits {
		switch {
		case d >= '0' && d <= '9':
			d -= '0'
		case d >= 'a' && d <= 'f':
			d -= 'a' - 10
		case d >= 'A' && d <= 'F':
			d -= 'A' - 10
		default:
			return 0, false
		}
		size = size<<4 | int(d)
	}
	return size, len(digits) > 0 && len(digits) <= maxSizeDigits
}

// finish verifies the chunk that is held and gives it out with its new signature.
func (c *Chunks) finish(dst []byte) ([]byte, error) {
	size := c.need - c.head - len(crlf)
	if c.need == c.head {
		size = 0
	}
	data := c.hold[c.head : c.head+size]
	if string(c.hold[c.head+size:]) != crlf && c.need > c.head {
		return dst, ErrChunkForm
	}
	at := c.head - len(crlf) - 2*sha256.Size
	if err := c.resign(payloadAlgorithm, sha256.Sum256(data), c.hold[at:at+2*sha256.Size]); err != nil {
		return dst, err
	}
	dst = append(dst, c.hold...)
	c.hold, c.head, c.need = c.hold[:0], 0, MaxChunkHead
	if size == 0 {
		c.last, c.done, c.need = true, !c.trailer, maxTrailer
	}
	return dst, nil
}

// resign verifies a signature and puts the new one in its place.
func (c *Chunks) resign(algorithm string, sum [sha256.Size]byte, signature []byte) error {
	if !hmac.Equal([]byte(c.from.sign(algorithm, sum)), signature) {
		return ErrChunkSignature
	}
	copy(signature, c.to.sign(algorithm, sum))
	return nil
}

// takeTrailer takes up to the end of a line of the trailer. Its last line is its
// signature, and an empty one follows. Some clients end the fields in one newline and
// put an empty line behind them (minio-go, as AWS's own example has it).
func (c *Chunks) takeTrailer(dst, p []byte) ([]byte, int, error) {
	n := bytes.IndexByte(p, '\n') + 1
	if n == 0 {
		n = len(p)
	}
	if len(c.hold)+n > maxTrailer {
		return dst, 0, ErrChunkForm
	}
	c.hold = append(c.hold, p[:n]...)
	text, ended := bytes.CutSuffix(c.hold, []byte(crlf+crlf))
	if !ended {
		return dst, n, nil
	}
	at := bytes.LastIndexByte(text, '\n') + 1
	signature, ok := bytes.CutPrefix(text[at:], []byte(trailerSignature))
	if !ok {
		return dst, n, nil
	}
	if !isHash(string(signature)) {
		return dst, n, ErrChunkForm
	}
	if err := c.resign(trailerAlgorithm, sha256.Sum256(canonicalTrailer(text[:at])), signature); err != nil {
		return dst, n, err
	}
	c.done = true
	dst = append(dst, c.hold...)
	c.hold = c.hold[:0]
	return dst, n, nil
}

// canonicalTrailer writes the fields of a trailer as their signature covers them.
func canonicalTrailer(text []byte) []byte {
	var out []byte
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		name, value, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\r")), []byte(":"))
		if len(name) == 0 && len(value) == 0 {
			continue
		}
		out = append(append(out, bytes.ToLower(name)...), ':')
		out = append(append(out, bytes.Trim(value, " \t")...), '\n')
	}
	return out
}
