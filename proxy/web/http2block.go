package web

import (
	"errors"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Limits of one header block. They bound what a peer can make us hold or do:
// the list after decoding against an HPACK bomb (a field of one byte may name a
// table entry of 4 KiB), the fragments against a CONTINUATION flood
// (CVE-2024-27316 and kin).
const (
	maxListBytes     = 64 << 10 // names, values and 32 bytes a field, as RFC 9113 §6.5.2 counts
	maxListFields    = 200
	maxBlockBytes    = 64 << 10 // as encoded
	maxContinuations = 32
)

var errHeaderBlock = errors.New("header block exceeds its limits")

// headerBlock decodes the header blocks of one direction of a connection, one
// after the other. It is used by one goroutine.
type headerBlock struct {
	dec    *hpack.Decoder
	fields []hpack.HeaderField
	// large says that the list exceeded maxListBytes or maxListFields. It was
	// decoded to its end all the same, since the dynamic table must follow.
	large bool

	listBytes  int
	wireBytes  int
	fragments  int
	stream     uint32
	endStream  bool
	incomplete bool
}

func newHeaderBlock() *headerBlock {
	b := &headerBlock{fields: make([]hpack.HeaderField, 0, 32)}
	b.dec = hpack.NewDecoder(headerTableBytes, b.emit)
	b.dec.SetMaxStringLength(maxListBytes)
	return b
}

func (b *headerBlock) emit(f hpack.HeaderField) {
	b.listBytes += int(f.Size())
	if b.listBytes > maxListBytes || len(b.fields) == maxListFields {
		b.large = true
		b.dec.SetEmitEnabled(false)
		return
	}
	b.fields = append(b.fields, f)
}

// begin takes a HEADERS frame and reports whether the block is complete. Errors
// are of the whole connection.
func (b *headerBlock) begin(f *http2.HeadersFrame) (bool, error) {
	clear(b.fields)
	*b = headerBlock{dec: b.dec, fields: b.fields[:0], stream: f.StreamID, endStream: f.StreamEnded()}
	b.dec.SetEmitEnabled(true)
	return b.append(f.HeaderBlockFragment(), f.HeadersEnded())
}

// next takes a CONTINUATION frame; the framer has seen to it that it belongs to
// the block.
func (b *headerBlock) next(f *http2.ContinuationFrame) (bool, error) {
	b.fragments++
	if b.fragments > maxContinuations {
		return false, fault(http2.ErrCodeEnhanceYourCalm, errHeaderBlock)
	}
	return b.append(f.HeaderBlockFragment(), f.HeadersEnded())
}

func (b *headerBlock) append(fragment []byte, ended bool) (bool, error) {
	b.incomplete = !ended
	b.wireBytes += len(fragment)
	if b.wireBytes > maxBlockBytes {
		return false, fault(http2.ErrCodeEnhanceYourCalm, errHeaderBlock)
	}
	if _, err := b.dec.Write(fragment); err != nil {
		return false, fault(http2.ErrCodeCompression, err)
	}
	if !ended {
		return false, nil
	}
	if err := b.dec.Close(); err != nil {
		return false, fault(http2.ErrCodeCompression, err)
	}
	return true, nil
}
