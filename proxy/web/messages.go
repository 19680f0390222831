package web

import (
	"errors"
	"io"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/superserve/superserve/proxy/redact"
)

// coding says how an answer is compressed, and what its content is made of.
type coding struct {
	list    string // as in Content-Encoding; "" when it is not compressed
	each    bool   // each message on its own is, as gRPC and Connect do
	framing framing
}

// open returns a reader of what r carries under the coding.
func (c coding) open(r io.Reader) (io.Reader, error) {
	if c.each {
		return redact.DecodeMessages(c.list, r)
	}
	return redact.Decode(c.list, r)
}

// codingOf returns the coding that hides a body, from the values of Content-Encoding and
// of the fields that say it of messages, and whether it can be undone. What says that its
// messages are compressed, and has none that we know, cannot.
func codingOf(content, messages string, f framing) (c coding, known bool) {
	switch {
	case messages == "":
		c = coding{list: content, framing: f}
	case f == framedNot || !plainCoding(content):
		return c, false
	default:
		return coding{list: messages, each: true, framing: f}, redact.KnownOfMessages(messages)
	}
	if plainCoding(c.list) {
		c.list = ""
	}
	return c, redact.Known(c.list)
}

func plainCoding(coding string) bool { return coding == "" || coding == "identity" }

// framing says what separates the messages of a content, if anything does.
type framing uint8

const (
	framedNot framing = iota
	framedWeb         // as gRPC's, and what ends it too: gRPC-Web, the streams of Connect
	framedRPC         // gRPC's own, whose end is in trailers
)

// framingOf tells it from a Content-Type. What is text, in base64, is not framed by its
// bytes (application/grpc-web-text).
func framingOf[T string | []byte](contentType T) framing {
	for _, k := range []struct {
		name string
		f    framing
	}{{"application/grpc", framedRPC}, {"application/grpc-web", framedWeb}, {"application/connect", framedWeb}} {
		if len(contentType) < len(k.name) || !foldPrefix(contentType, k.name) {
			continue
		}
		if len(contentType) == len(k.name) {
			return k.f
		}
		switch contentType[len(k.name)] {
		case '+', ';', ' ', '\t':
			return k.f
		}
	}
	return framedNot
}

// foldPrefix compares the beginning of s, which is long enough, with lower.
func foldPrefix[T string | []byte](s T, lower string) bool {
	for i := range len(lower) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// breakMessages ends an answer in whose middle a message cannot be searched: in gRPC
// with a status that says so, else with a reset. The mutex is held.
func (r *h2relay) breakMessages(st *h2stream, cause error) error {
	if st.framing != framedRPC {
		return r.cancel(st, http2.ErrCodeInternal)
	}
	code, text := "13", "a message of the answer cannot be searched for the key"
	if errors.Is(cause, redact.ErrExpansion) || errors.Is(cause, redact.ErrCrowd) {
		code, text = "8", "a message of the answer is too long to be searched for the key"
	}
	appendTrailers(r.client.out, st.id, []hpack.HeaderField{
		{Name: "grpc-status", Value: code}, {Name: "grpc-message", Value: "superserve: " + text},
		{Name: "x-superserve-error", Value: faultCoding.Reason},
	})
	if !st.clientDone {
		r.client.out.reset(st.id, http2.ErrCodeNo)
	}
	r.resetUpstream(st, http2.ErrCodeCancel)
	r.remember(st.id)
	return r.forget(st)
}
