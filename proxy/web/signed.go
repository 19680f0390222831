package web

import (
	"bytes"
	"errors"
	"net/http"

	"golang.org/x/net/http2"

	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/proxy/web/sign"
)

// A content in signed chunks passes through a sign.Chunks, which gives a chunk out when
// it is whole and verified. What it gives out is as long as what came in, so lengths
// hold; an end that was not verified is never sent, so the upstream never has a whole
// content that the agent did not sign.

var (
	refuseSignedForm = badRequest("bad_signed_chunk", "the content is not in signed chunks, as x-amz-content-sha256 has it")
	refuseSignedSize = &swap.Refusal{
		Status: http.StatusRequestEntityTooLarge, Reason: "signed_chunk_too_long", Detail: "a signed chunk is longer than 1 MiB",
	}
	refuseSignature = &swap.Refusal{
		Status: http.StatusForbidden, Reason: swap.ReasonSignature,
		Detail: "a chunk of the content was not signed with the placeholder of the secret key",
		Advice: "use access key and secret key of one environment, as they are now",
	}
)

// maxKeptChunk bounds the buffer that an HTTP/2 connection keeps for signed chunks.
const maxKeptChunk = 256 << 10

func signedRefusal(err error) *swap.Refusal {
	switch {
	case errors.Is(err, sign.ErrChunkSignature):
		return refuseSignature
	case errors.Is(err, sign.ErrChunkLength):
		return refuseSignedSize
	}
	return refuseSignedForm
}

// resign appends what chunks gives out for p, the next bytes of a content.
func resign(chunks *sign.Chunks, dst, p []byte, last bool) ([]byte, *swap.Refusal) {
	out, err := chunks.Append(dst, p)
	if err == nil && last {
		err = chunks.End()
	}
	if err != nil {
		return dst, signedRefusal(err)
	}
	return out, nil
}

// part appends p, the next bytes of a content of known length, as they are sent.
func (u *upload) part(dst, p []byte) ([]byte, *swap.Refusal) {
	if u.chunks == nil {
		return append(dst, p...), nil
	}
	return resign(u.chunks, dst, p, u.left == 0)
}

// mirror is chunkParser.mirror for the request's body. Signed chunks are not those of
// HTTP, whose sizes are set anew when a content is both.
func (u *upload) mirror(dst, b []byte) (out []byte, n int, done bool, ref *swap.Refusal) {
	if u.chunks == nil {
		out, n, done, ok := u.r.body.mirror(dst, b, &u.trailer)
		if !ok {
			ref = refuseChunk
		}
		return out, n, done, ref
	}
	for {
		event, m := u.r.body.next(b[n:])
		part := b[n : n+m]
		n += m
		switch event {
		case chunkMore:
			return dst, n, false, nil
		case chunkData:
			text, ref := resign(u.chunks, nil, part, false)
			if ref != nil {
				return dst, n, false, ref
			}
			dst = appendChunk(dst, text)
		case chunkEnd:
			if err := u.chunks.End(); err != nil {
				return dst, n, true, signedRefusal(err)
			}
			dst, ok := u.trailer.appendTrailer(dst, trailerSection(part))
			if !ok {
				return dst, n, true, refuseChunk
			}
			return dst, n, true, nil
		case chunkBad:
			return dst, n, false, refuseChunk
		}
	}
}

// unsign forgets the keys of the content that was sent.
func (u *upload) unsign() {
	if u.chunks != nil {
		u.chunks.Close()
		u.chunks = nil
	}
}

// startSigned lets a stream's content pass through chunks. What waits for a chunk's
// end takes nothing of the upstream's windows, so the client is lent a window for it.
// The mutex is held.
func (r *h2relay) startSigned(st *h2stream, chunks *sign.Chunks) {
	st.chunks, st.credit = chunks, r.upstream.initial
	r.lend(st)
}

func (r *h2relay) lend(st *h2stream) {
	if more := st.chunks.Need() - st.lent; more > 0 && !st.clientDone {
		st.lent += more
		r.client.out.window(st.id, uint32(more))
	}
}

// sendSigned sends what a stream's chunks give out for p. The mutex is held.
func (r *h2relay) sendSigned(st *h2stream, p []byte, last bool) {
	before := st.chunks.Held()
	out, ref := resign(st.chunks, r.signed[:0], p, last)
	if r.signed = out; cap(out) > maxKeptChunk { // what is sent or queued of it is a copy
		r.signed = nil
	}
	r.bodies += st.chunks.Held() - before
	switch {
	case ref != nil:
		r.abandon(st, ref)
		return
	case r.bodies > maxHeldBodies:
		r.abandon(st, refuseBodies)
		return
	case len(out) > 0 || last:
		r.sendData(st, out, last)
	}
	r.lend(st)
}

// abandon ends a stream of whose request a part was sent.
func (r *h2relay) abandon(st *h2stream, ref *swap.Refusal) {
	r.resetUpstream(st, http2.ErrCodeCancel)
	st.refused = true
	r.fail(st, ref)
}

// unsign forgets the keys of a stream that is over, and what is held of it.
func (r *h2relay) unsign(st *h2stream) {
	if st.chunks != nil {
		r.bodies -= st.chunks.Held()
		st.chunks.Close()
		st.chunks = nil
	}
}

// undone is a value of Content-Encoding without aws-chunked. That says how a content was
// uploaded; servers other than AWS's keep it with an object and give it back (versitygw
// 1.8), where it means nothing.
func undone(coding []byte) []byte {
	const chunked = "aws-chunked"
	if len(coding) < len(chunked) || !foldEqual(coding[:len(chunked)], chunked) {
		return coding
	}
	rest := bytes.TrimLeft(coding[len(chunked):], " \t")
	if len(rest) > 0 && rest[0] != ',' {
		return coding
	}
	return bytes.Trim(rest, ", \t")
}
