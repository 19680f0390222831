package web

import (
	"bytes"
	"io"
	"time"

	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/proxy/swap"
)

// holdTimeout bounds how long a client may take for a content that is read whole
// before it is judged.
const holdTimeout = 60 * time.Second

// held is a request's content that is judged before any of the request is sent.
type held struct {
	whole bool // data is the whole content; else it is its beginning, and is passed on
	coded bool // plain is not data but what it decodes to
	data  []byte
	plain []byte // what is judged; nil: nothing

	counted int // bytes of data that the run knows of
	limit   int // how long data may become and be judged
}

// count tells the run what is held, and reports whether it may be.
func (r *h1relay) count(n int) bool {
	all := r.s.srv.held.Add(int64(n - r.held.counted))
	r.held.counted = n
	return all <= maxHeldAll
}

// letGo forgets what was held, and keeps a small buffer at most.
func (r *h1relay) letGo() {
	r.count(0)
	if cap(r.held.data) > maxKeptText {
		r.held.data = nil
	}
	r.held = held{data: r.held.data[:0]}
}

// hold reads the content where a binding may have placed a secret in it, or a signature
// covers it. One that is longer than swap.BodyLimit is relayed as it is: it is no sign-in.
func (r *h1relay) hold() (*swap.Refusal, error) {
	if !r.hasContent() || r.req.websocket || r.req.length > swap.MaxSigned || !r.s.srv.swap.WantsBody(&r.s.target, r.req.fields) {
		return nil, nil
	}
	if r.held.limit = r.s.srv.swap.BodyLimit(&r.s.target, r.req.fields); r.req.length > int64(r.held.limit) {
		return nil, nil
	}
	if r.req.expect {
		// Nobody else can say so: the upstream hears of the request when it is judged.
		r.req.expect = false
		if _, err := io.WriteString(r.in.conn, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return nil, err
		}
	}
	if err := r.in.conn.SetReadDeadline(time.Now().Add(holdTimeout)); err != nil {
		return nil, err
	}
	if ref, err := r.gather(); ref != nil || err != nil {
		return ref, err
	}
	if r.held.whole && len(r.held.data) <= swap.MaxBody {
		r.held.plain, r.held.coded = plainContent(r.held.data, r.req.fields)
	}
	return nil, r.in.conn.SetReadDeadline(time.Time{})
}

func (r *h1relay) hasContent() bool {
	return r.req.body == bodyChunked || r.req.body == bodyLength && r.req.length > 0
}

// gather reads until the content is whole or too long.
func (r *h1relay) gather() (*swap.Refusal, error) {
	for {
		if ref := r.collect(); ref != nil || r.held.whole || len(r.held.data) > r.held.limit {
			return ref, nil
		}
		if !r.count(len(r.held.data)) {
			return refuseBodies, nil
		}
		if err := r.in.fill(recordBuffer); err != nil {
			return nil, err
		}
	}
}

// collect takes what of the content is in the client's buffer.
func (r *h1relay) collect() *swap.Refusal {
	h := &r.held
	if r.req.body == bodyLength {
		n := min(int(r.req.length)-len(h.data), len(r.in.bytes()))
		h.data = append(h.data, r.in.bytes()[:n]...)
		r.in.consume(n)
		h.whole = int64(len(h.data)) == r.req.length
		return nil
	}
	for len(h.data) <= h.limit {
		event, n := r.body.next(r.in.bytes())
		part := r.in.bytes()[:n]
		r.in.consume(n)
		switch event {
		case chunkBad:
			return refuseChunk
		case chunkMore:
			return nil
		case chunkData:
			h.data = append(h.data, part...)
		case chunkEnd:
			h.whole = true
			return nil
		}
	}
	return nil
}

// appendBeginning writes the beginning of a chunked content that turned out too long
// to be judged as one chunk, and what makes the rest of the last one a chunk.
func (r *h1relay) appendBeginning(dst []byte) []byte {
	if len(r.held.data) == 0 {
		return dst
	}
	dst = append(appendChunkSize(dst, int64(len(r.held.data))), r.held.data...)
	if r.body.state == atData {
		dst = appendChunkSize(append(dst, "\r\n"...), r.body.left)
	}
	return dst
}

// content returns what to send for a content that was held whole. The caller wipes
// it when plan has a key in it.
func (h *held) content(plan *swap.Plan) []byte {
	if !plan.Body() || !h.whole {
		return h.data
	}
	return plan.AppendBody(make([]byte, 0, len(h.plain)+plan.Room()))
}

// plainContent undoes the content coding of data; coded says that there was one. Nil:
// it cannot be undone, or decodes to more than may be judged.
func plainContent(data []byte, fields []swap.Field) (plain []byte, coded bool) {
	var coding []byte
	for i := range fields {
		if foldEqual(fields[i].Name, "content-encoding") {
			if coding != nil {
				return nil, true
			}
			coding = fields[i].Value
		}
	}
	if plainCoding(string(coding)) {
		return data, false
	}
	r, err := redact.Decode(string(coding), bytes.NewReader(data))
	if err != nil {
		return nil, true
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close() //nolint:errcheck // frees memory only
	}
	plain, err = io.ReadAll(io.LimitReader(r, swap.MaxBody+1))
	if err != nil || len(plain) > swap.MaxBody {
		return nil, true
	}
	return plain, true
}
