package web

import (
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/superserve/superserve/proxy/budget"
	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/proxy/web/sign"
)

// h2stream is one request and its answer. The relay's mutex guards it.
type h2stream struct {
	id           uint32
	clientDone   bool   // the client's END_STREAM was relayed
	upstreamDone bool   // the upstream's END_STREAM came
	answered     bool   // the final response's head was relayed
	closed       bool   // gone from the relay's table; only decoders may still see it
	keyed        bool   // carries a real key
	head         bool   // a HEAD request
	early        int    // 1xx answers
	length       int64  // of the request's content that is still to come, -1 unknown
	window       int64  // bytes of DATA that the client lets us send
	up           uint32 // its id upstream, 0 before it was sent
	held         *h2held
	credit       int64               // bytes of DATA that the upstream lets us send, or unpaced
	queue        []byte              // DATA of the request that waits for room
	queueSecret  bool                // queue holds a real key
	trailing     bool                // the request ended in trailers
	trailers     []hpack.HeaderField // those, while the queue is not empty
	chunks       *sign.Chunks        // sign the request's content anew; nil: it passes as it is
	lent         int                 // bytes of DATA that the client may send for them beyond the upstream's window
	own          ownKeys             // of the request
	redact       *redact.Stream
	decode       *h2decoder
	framing      framing             // of the answer's content, where it is searched
	messages     redact.Messages     // of it, as the client gets them
	meter        *budget.Meter       // of the answer's cost; nil for nearly all
	capture      *capture            // of the answer's tokens; nil for nearly all
	answer       []hpack.HeaderField // of the answer that is captured

	// for the audit:
	method, path   string
	status         int
	sent, received int64
	began          time.Time
	reason         string
	refused        bool
}

// open makes the stream of a new request. The mutex is held.
func (r *h2relay) open(id uint32, req *h2request) *h2stream {
	var st *h2stream
	if n := len(r.spare); n > 0 {
		st, r.spare = r.spare[n-1], r.spare[:n-1]
	} else {
		st = &h2stream{}
	}
	*st = h2stream{
		redact: st.redact, id: id, length: req.length, head: req.method == "HEAD", window: r.client.initial, credit: unpaced,
		method: req.method, path: req.path, began: time.Now(),
	}
	return st
}

// close takes a stream out of the table and records it. The mutex is held.
func (r *h2relay) close(st *h2stream) {
	if st.closed {
		return
	}
	st.closed = true
	delete(r.streams, st.id)
	r.unhold(st)
	if st.decode == nil && st.redact != nil {
		r.held -= int64(st.redact.Drop())
	}
	st.meter.Done(st.sent, st.status)
	r.events = append(r.events, r.judge.event(st))
	if st.decode != nil {
		st.decode.stop(r)
		return
	}
	if len(r.spare) < maxStreams {
		r.spare = append(r.spare, st)
	}
}

// closeDone closes a stream on which both sides are done. The mutex is held.
func (r *h2relay) closeDone(st *h2stream) {
	if st.clientDone && st.upstreamDone && st.held == nil && (st.decode == nil || st.decode.done) {
		r.close(st)
	}
}

// cancel resets a stream on both sides. The mutex is held.
func (r *h2relay) cancel(st *h2stream, code http2.ErrCode) error {
	r.client.out.reset(st.id, code)
	r.resetUpstream(st, http2.ErrCodeCancel)
	r.remember(st.id)
	return r.forget(st)
}

// remember keeps the id of a stream that was not reset by the client, whose
// frames for it may be under way. The mutex is held.
func (r *h2relay) remember(id uint32) {
	r.recent[r.recentAt] = id
	r.recentAt = (r.recentAt + 1) % len(r.recent)
}

// forget closes a stream that was reset, and counts. The mutex is held.
func (r *h2relay) forget(st *h2stream) error {
	r.close(st)
	r.regrant()
	if !r.resets.take() {
		return fault(http2.ErrCodeEnhanceYourCalm, errResets)
	}
	return nil
}

// stale says what to make of a client's frame for a stream that is not open: nil
// when we or the upstream reset it and the client could not know. The mutex is
// held.
func (r *h2relay) stale(id uint32) error {
	if id > r.client.lastID || id%2 == 0 {
		return fault(http2.ErrCodeProtocol, errIdle)
	}
	for _, recent := range r.recent {
		if recent == id {
			return r.countControl(r.client)
		}
	}
	return fault(http2.ErrCodeStreamClosed, errClosed)
}

// staleUpstream is stale for the upstream's frames, which may always be under
// way when the client cancels.
func (r *h2relay) staleUpstream(id uint32) error {
	if id > max(r.client.lastID, r.lastUp) || id%2 == 0 {
		return fault(http2.ErrCodeProtocol, errIdle)
	}
	return nil
}

// countControl spends from the budget of a side's idle frames.
func (r *h2relay) countControl(from *h2side) error {
	if !from.control.take() {
		return fault(http2.ErrCodeEnhanceYourCalm, errFlood)
	}
	return nil
}

// failStreams answers 502 where no answer began, and resets the other streams.
// The mutex is held.
func (r *h2relay) failStreams() {
	for _, st := range r.streams {
		r.fail(st, &refuseFault)
	}
}

// fail ends a stream whose upstream went wrong: with ref when no answer began.
// The mutex is held.
func (r *h2relay) fail(st *h2stream, ref *swap.Refusal) {
	st.reason = ref.Reason
	if st.answered {
		r.client.out.reset(st.id, http2.ErrCodeInternal)
	} else {
		st.status = ref.Status
		r.answer(st, ref, http2.ErrCodeNo)
	}
	r.remember(st.id)
	r.close(st)
	r.regrant()
}

// closeStreams records what was open when the relay ended.
func (r *h2relay) closeStreams() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, st := range r.streams {
		if st.reason == "" {
			st.reason = "connection_ended"
		}
		r.close(st)
	}
	r.bodies = 0
	r.settle()
	r.client.drop()
	if r.upstream != nil {
		r.upstream.drop()
	}
}
