package web

import (
	"context"
	"slices"

	"golang.org/x/net/http2"

	"github.com/superserve/superserve/proxy/swap"
)

// A request whose content may hold a placeholder is held until the content is whole,
// is judged then, and is sent as it was judged. Requests that came later do not wait
// for it, so from the first held request on, a stream's id upstream may be another
// than the client's: h2stream.up, and byUp to find it.
//
// The client may send the content at once, whatever windows the upstream gave. So
// what is sent later is paced: it waits in the stream's queue for the windows. The
// client's connection window is then wider than the upstream's by at most what is
// held, and other streams' DATA may have to wait in queues too.

const (
	// maxHeldBodies bounds what is held and queued on a connection, in bytes.
	maxHeldBodies = 8 << 20
	// maxHeldAll bounds the same on all connections of a run, of either version: 512 of them could hold 4 GiB.
	maxHeldAll = 64 << 20
)

// unpaced is the credit of a stream whose windows are the upstream's own.
const unpaced = 1 << 62

var (
	refuseBodies = &swap.Refusal{
		Status: 503, Reason: "too_many_streams",
		Detail: "the contents of the requests that wait are longer than 8 MiB on one connection, or 64 MiB on all",
	}
	refuseHeldTrailers = badRequest("bad_trailer", "a content that may hold a credential has trailers")
)

// h2held is a request that waits for its content.
type h2held struct {
	req    h2request
	data   []byte
	window uint32 // what the client granted meanwhile for the answer, in bytes
}

// hold makes a request wait. The mutex is held.
func (r *h2relay) hold(st *h2stream, req *h2request) {
	st.held = &h2held{req: *req}
	st.held.req.fields = slices.Clone(req.fields)
	r.streams[st.id] = st
	if r.byUp == nil {
		r.byUp = make(map[uint32]*h2stream)
		for _, open := range r.streams {
			r.byUp[open.up] = open
		}
		delete(r.byUp, 0)
	}
	if more := swap.MaxBody + maxFrameBytes - r.upstream.initial; more > 0 {
		r.client.out.window(st.id, uint32(more))
	}
}

// holdData keeps DATA of a held request, and sends the request when that is all. The
// mutex is held, and released while the request is judged.
func (r *h2relay) holdData(ctx context.Context, st *h2stream, p []byte, last bool) error {
	h := st.held
	h.data = append(h.data, p...)
	r.bodies += len(p)
	st.clientDone = last
	r.regrant()
	r.settle()
	switch {
	case r.bodies > maxHeldBodies || r.shared != nil && r.shared.Load() > maxHeldAll:
		r.refuseHeld(st, refuseBodies)
	case last || len(h.data) > swap.MaxBody:
		return r.release(ctx, st)
	}
	return nil
}

// settle tells the run what this connection holds. The mutex is held.
func (r *h2relay) settle() {
	if r.shared != nil {
		r.shared.Add(int64(r.bodies - r.settled))
	}
	r.settled = r.bodies
}

// refuseHeld answers a held request of which nothing was sent.
func (r *h2relay) refuseHeld(st *h2stream, ref *swap.Refusal) {
	st.refused, st.reason, st.status = true, ref.Reason, ref.Status
	r.answer(st, ref, http2.ErrCodeNo)
	r.remember(st.id)
	r.close(st)
	r.regrant()
}

// release judges a held request and sends it. One that is too long is judged without
// its content.
func (r *h2relay) release(ctx context.Context, st *h2stream) error {
	h := st.held
	var whole, plain []byte
	coded := false
	r.mu.Unlock()
	if len(h.data) <= swap.MaxBody {
		whole = h.data
		plain, coded = plainContent(h.data, r.judged(h.req.fields))
	}
	plan, ref := r.decide(ctx, st, &h.req, whole, plain)
	r.mu.Lock()
	switch {
	case r.streams[st.id] != st:
		return nil // gone meanwhile
	case ref != nil:
		r.refuseHeld(st, ref)
		return nil
	}
	content := h.data
	if plan.Body() {
		content = plan.AppendBody(make([]byte, 0, len(plain)+plan.Room()))
		h.req.reframe(len(content), coded)
	}
	r.bodies += len(content) - len(h.data)
	st.held = nil
	st.credit = r.upstream.initial
	if len(content) > 0 {
		st.queue, st.queueSecret = content, plan.Body()
		r.queues++
	}
	r.forward(st, &h.req, plan)
	if h.window > 0 {
		r.upstream.out.window(st.up, h.window)
	}
	st.sent += int64(len(content))
	if len(content) > 0 {
		r.pump(st)
	}
	return nil
}

// reframe gives the request's content another length, and no content coding.
func (req *h2request) reframe(length int, uncoded bool) {
	req.newLength, req.reframed, req.uncoded = length, true, uncoded
}

// sendData sends p, or lets it wait for the upstream's windows. The mutex is held.
func (r *h2relay) sendData(st *h2stream, p []byte, last bool) {
	st.sent += int64(len(p))
	st.clientDone = last
	if len(st.queue) == 0 && st.credit == unpaced && int64(len(p)) <= r.upstream.window {
		r.upstream.out.data(st.up, p, last)
		r.upstream.window -= int64(len(p))
		return
	}
	if len(st.queue) == 0 {
		r.queues++
	}
	st.queue = append(st.queue, p...)
	r.bodies += len(p)
	r.pump(st)
}

// pump sends what the windows have room for of a stream's queue, and the stream's end
// after it. The mutex is held.
func (r *h2relay) pump(st *h2stream) {
	q := r.upstream.out
	for {
		n := int64(len(st.queue))
		if n > 0 {
			n = min(n, st.credit, r.upstream.window, maxFrameBytes)
			if n <= 0 {
				return
			}
		}
		all := n == int64(len(st.queue))
		q.secret = q.secret || st.queueSecret
		q.data(st.up, st.queue[:n], all && st.clientDone && !st.trailing)
		if st.queueSecret {
			clear(st.queue[:n])
		}
		st.queue = st.queue[n:]
		r.upstream.window -= n
		if st.credit != unpaced {
			st.credit -= n
		}
		r.bodies -= int(n)
		if all {
			break
		}
	}
	r.queues--
	st.queue, st.queueSecret = nil, false
	if st.trailing {
		appendTrailers(q, st.up, st.trailers)
		st.trailers = nil
	}
	r.closeDone(st)
}

// pumpAll goes on with the streams that wait, after a window was widened.
func (r *h2relay) pumpAll() {
	if r.queues == 0 {
		return
	}
	for _, st := range r.streams {
		if len(st.queue) > 0 {
			r.pump(st)
		}
	}
}

// unhold forgets what is held or queued of a stream that is over.
func (r *h2relay) unhold(st *h2stream) {
	r.unsign(st)
	if st.held != nil {
		r.bodies -= len(st.held.data)
		st.held = nil
		return
	}
	if r.byUp != nil {
		delete(r.byUp, st.up)
	}
	if len(st.queue) == 0 {
		return
	}
	if st.queueSecret {
		clear(st.queue)
	}
	r.bodies -= len(st.queue)
	r.queues--
	st.queue = nil
	if st.upstreamDone {
		r.upstream.out.reset(st.up, http2.ErrCodeCancel) // it did not wait for the rest
	}
}

// number gives a stream its id upstream: the client's own until a held request took a
// later place.
func (r *h2relay) number(st *h2stream) {
	st.up = st.id
	if r.byUp != nil {
		if st.up <= r.lastUp {
			st.up = r.lastUp + 2
		}
		r.byUp[st.up] = st
	}
	r.lastUp = st.up
}

// serving returns the open stream that the upstream knows by id.
func (r *h2relay) serving(id uint32) *h2stream {
	if r.byUp != nil {
		return r.byUp[id]
	}
	return r.streams[id]
}

// resetUpstream ends a stream upstream, if the upstream knows it.
func (r *h2relay) resetUpstream(st *h2stream, code http2.ErrCode) {
	if st.held == nil && st.up != 0 {
		r.upstream.out.reset(st.up, code)
	}
}

// lastServed translates the last id of an upstream's GOAWAY, and resets the streams
// that the upstream has not taken though the client will think so.
func (r *h2relay) lastServed(last uint32) uint32 {
	if r.byUp == nil || last >= maxWindow {
		return last
	}
	served := uint32(0)
	for _, st := range r.byUp {
		if st.up <= last {
			served = max(served, st.id)
		}
	}
	for _, st := range r.streams {
		if st.id < served && (st.held != nil || st.up > last) {
			r.client.out.reset(st.id, http2.ErrCodeRefusedStream)
			st.reason = "upstream_reset"
			r.remember(st.id)
			r.close(st)
		}
	}
	return served
}

// resizeCredits applies the upstream's SETTINGS_INITIAL_WINDOW_SIZE to streams that are paced.
func (r *h2relay) resizeCredits(size int64) {
	delta := size - r.upstream.initial
	r.upstream.initial = size
	for _, st := range r.streams {
		if st.held == nil && st.credit != unpaced {
			st.credit += delta
		}
	}
	r.pumpAll()
}
