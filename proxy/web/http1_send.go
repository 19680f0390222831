package web

import (
	"sync/atomic"

	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/proxy/web/sign"
)

// maxJoined is the longest content that was held whole and is copied behind its head.
const maxJoined = 2 << 20

// send writes the request's head, with as much of its body as is here already,
// and starts the upload of the rest. A failing write is not reported: the
// upstream may have answered before it closed, and reading tells.
func (r *h1relay) send(plan *swap.Plan) *swap.Refusal {
	need := len(r.head) + room(plan, &r.s.target) + len(r.in.bytes())
	var content []byte
	if r.held.whole {
		content = r.held.content(plan)
		r.req.reframe(len(content), plan.Body() && r.held.coded)
	}
	large := len(content) > maxJoined && !plan.Body()
	if !large {
		need += len(content) + len(r.held.data)
	}
	if cap(r.out) < need {
		r.out = make([]byte, 0, need)
	}
	narrow := plan != nil || r.s.searched()
	out := r.req.appendTo(r.out[:0], &r.s.target, plan, narrow)
	if !large {
		out = append(out, content...)
	}
	if plan.Body() {
		clear(content)
	}
	r.upload.chunks = plan.Chunks()
	out, more, ref := r.inline(out)
	if ref != nil {
		clear(out)
		r.upload.unsign()
		return ref
	}
	if r.req.websocket {
		r.accept = acceptKey(r.req.wsKey)
	}
	n, err := r.up.conn.Write(out)
	r.event.Sent += int64(n)
	if large && err == nil {
		n, err = r.up.conn.Write(content)
		r.event.Sent += int64(n)
	}
	if plan != nil {
		clear(out)
		r.cover(plan)
	}
	if !more {
		r.upload.unsign()
		return nil
	}
	r.upload.start(err != nil)
	return nil
}

// inline appends what is here of the body, so that a head and a small body are
// one write. more says that the body goes on.
func (r *h1relay) inline(dst []byte) (out []byte, more bool, ref *swap.Refusal) {
	if r.held.whole {
		return dst, false, nil
	}
	switch r.req.body {
	case bodyLength:
		n := int(min(r.req.length, int64(len(r.in.bytes())), maxInline))
		r.upload.left = r.req.length - int64(n)
		dst, ref = r.upload.part(dst, r.in.bytes()[:n])
		r.in.consume(n)
		return dst, r.upload.left > 0, ref
	case bodyChunked:
		dst = r.appendBeginning(dst)
		dst, n, done, ref := r.upload.mirror(dst, r.in.bytes())
		r.in.consume(n)
		return dst, !done, ref
	}
	return dst, false, nil
}

// mirror appends what of a chunked body b begins with, re-serialised: the same
// chunks without their extensions. n is how much of b that was.
func (c *chunkParser) mirror(dst, b []byte, h *fieldLines) (out []byte, n int, done, ok bool) {
	for {
		event, m := c.next(b[n:])
		part := b[n : n+m]
		n += m
		switch event {
		case chunkMore:
			return dst, n, false, true
		case chunkSize:
			dst = appendChunkSize(dst, c.left)
		case chunkData:
			dst = append(dst, part...)
		case chunkClose:
			dst = append(dst, '\r', '\n')
		case chunkEnd:
			dst, ok = h.appendTrailer(dst, trailerSection(part))
			return dst, n, true, ok
		case chunkBad:
			return dst, n, false, false
		}
	}
}

// upload sends the rest of a request's body while the answer is awaited, in a
// goroutine of its own. Who starts it waits for it.
type upload struct {
	r       *h1relay
	active  bool
	left    int64
	trailer fieldLines
	chunks  *sign.Chunks // sign the content anew; nil: it passes as it is
	done    chan struct{}
	failed  atomic.Bool // the body cannot be completed: done comes at once
	discard atomic.Bool // read on, for the client's sake, but send nothing
	begun   atomic.Bool // some of the rest has come

	// Results, after done.
	ref  *swap.Refusal
	err  error
	sent int64
}

func (u *upload) start(discard bool) {
	if u.done == nil {
		u.done = make(chan struct{}, 1)
	}
	u.active, u.ref, u.err, u.sent = true, nil, nil, 0
	u.discard.Store(discard)
	u.begun.Store(false)
	u.failed.Store(false)
	go u.run()
}

// join waits for the upload to end and reports whether the body went out whole.
func (u *upload) join() bool {
	if u.active {
		<-u.done
		u.active = false
		u.r.event.Sent += u.sent
	}
	return u.ref == nil && u.err == nil && !u.discard.Load()
}

func (u *upload) run() {
	u.relay()
	u.unsign()
	if u.ref != nil || u.err != nil {
		u.failed.Store(true)
		// The body cannot be completed, so neither can the request: the upstream
		// sees the connection end, and whoever awaits the answer wakes.
		rawConn(u.r.up.conn).Close() //nolint:errcheck // as above
	} else {
		u.r.watch.arm()
	}
	u.done <- struct{}{}
}

func (u *upload) relay() {
	in, drained := &u.r.in, 0
	for {
		if !in.empty() {
			u.begun.Store(true)
			n, done, ref := u.pass(in.bytes())
			in.consume(n)
			if u.ref = ref; done || ref != nil {
				return
			}
			if u.discard.Load() {
				if drained += n; drained > maxDrained {
					u.err = errGone
					return
				}
			}
		}
		if u.err = in.fill(recordBuffer); u.err != nil {
			return
		}
	}
}

// pass sends what of the body p begins with.
func (u *upload) pass(p []byte) (n int, done bool, ref *swap.Refusal) {
	if u.r.req.body == bodyLength {
		n = int(min(u.left, int64(len(p))))
		u.left -= int64(n)
		if u.chunks == nil {
			u.write(p[:n])
			return n, u.left == 0, nil
		}
		out, ref := u.part(u.r.texts.up[:0], p[:n])
		if u.r.texts.up = out; ref != nil {
			return n, false, ref
		}
		u.write(out)
		return n, u.left == 0, nil
	}
	out, n, done, ref := u.mirror(u.r.texts.up[:0], p)
	u.r.texts.up = out
	if ref != nil {
		return n, false, ref
	}
	u.write(out)
	return n, done, nil
}

func (u *upload) write(p []byte) {
	if len(p) == 0 || u.discard.Load() {
		return
	}
	n, err := u.r.up.conn.Write(p)
	u.sent += int64(n)
	if err != nil {
		u.discard.Store(true)
	}
}
