package web

import (
	"context"

	"golang.org/x/net/http2"

	"github.com/superserve/superserve/proxy/redact"
)

// Connection windows. For the upstream's DATA the relay keeps
//
//	upstream.granted + held ≤ client.window
//
// so that whatever comes can be relayed at once, and for the client's DATA
//
//	client.granted ≤ upstream.window.
//
// A WINDOW_UPDATE widens the right side, and regrant passes on what that made
// room for. What is dropped narrows only the left side, so that regrant returns
// it. Answers of our own and decoded bodies narrow client.window by more than the
// upstream sent; awaitWindow covers that.
//
// What a redactor holds back is at most the longest form of a key and comes out
// with the next bytes, for which the upstream must have a window. A client that
// gives no more window before it has the last byte of the one it gave would wait
// for ever; all known ones give more at half of it.

// regrant lets each side send what the other has room for. The mutex is held.
func (r *h2relay) regrant() {
	if r.upstream == nil {
		r.client.grant(initialWindow)
		return
	}
	r.client.grant(r.upstream.window)
	if r.starved == 0 {
		r.upstream.grant(r.client.window - r.held)
	}
}

// grant raises what the peer may send to n, once it has got SETTINGS, which come
// first.
func (s *h2side) grant(n int64) {
	if more := n - s.granted; more > 0 && s.told {
		s.granted = n
		s.out.window(0, uint32(more))
	}
}

// take counts n bytes of flow-controlled payload that came in.
func (s *h2side) take(n int64) error {
	s.granted -= n
	if s.granted < 0 {
		return fault(http2.ErrCodeFlowControl, errWindow)
	}
	return nil
}

// awaitWindow waits until the client's window has room for n bytes, or the relay
// is over. It waits only after answers of our own or decoded bodies; the client
// must have read those and will say so. The mutex is held and released meanwhile.
func (r *h2relay) awaitWindow(n int64) {
	for r.client.window < n && !r.over {
		r.mu.Unlock()
		r.flush(r.client)
		r.mu.Lock()
		if r.client.window < n && !r.over {
			r.changed.Wait()
		}
	}
}

// clientWindow takes a WINDOW_UPDATE of the client.
func (r *h2relay) clientWindow(f *http2.WindowUpdateFrame) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.countControl(r.client); err != nil {
		return err
	}
	if f.StreamID == 0 {
		return r.widen(r.client, f.Increment)
	}
	st := r.streams[f.StreamID]
	if st == nil {
		if f.StreamID > r.client.lastID || f.StreamID%2 == 0 {
			return fault(http2.ErrCodeProtocol, errIdle)
		}
		return nil
	}
	st.window += int64(f.Increment)
	if st.window > maxWindow {
		return r.cancel(st, http2.ErrCodeFlowControl)
	}
	if st.decode != nil {
		r.changed.Broadcast()
		return nil
	}
	switch {
	case st.held != nil:
		st.held.window = min(st.held.window+f.Increment, maxWindow)
	case !st.upstreamDone:
		r.upstream.out.window(st.up, f.Increment)
	}
	return nil
}

// upstreamWindow takes a WINDOW_UPDATE of the upstream.
func (r *h2relay) upstreamWindow(f *http2.WindowUpdateFrame) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.countControl(r.upstream); err != nil {
		return err
	}
	if f.StreamID == 0 {
		return r.widen(r.upstream, f.Increment)
	}
	st := r.serving(f.StreamID)
	if st == nil {
		return r.staleUpstream(f.StreamID)
	}
	if !st.clientDone {
		r.client.out.window(st.id, f.Increment)
	}
	if st.credit != unpaced {
		st.credit += int64(f.Increment)
		if len(st.queue) > 0 {
			r.pump(st)
		}
	}
	return nil
}

func (r *h2relay) widen(s *h2side, n uint32) error {
	s.window += int64(n)
	if s.window > maxWindow {
		return fault(http2.ErrCodeFlowControl, errOverflow)
	}
	r.regrant()
	if s == r.upstream {
		r.pumpAll()
	}
	r.changed.Broadcast()
	return nil
}

// clientData relays DATA of a request.
func (r *h2relay) clientData(ctx context.Context, f *http2.DataFrame) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, size := f.Data(), int64(f.Length)
	if err := r.client.take(size); err != nil {
		return err
	}
	st := r.streams[f.StreamID]
	if st == nil {
		r.regrant()
		return r.stale(f.StreamID)
	}
	if st.clientDone {
		return fault(http2.ErrCodeStreamClosed, errClosed)
	}
	if len(p) == 0 && !f.StreamEnded() {
		if err := r.countControl(r.client); err != nil {
			return err
		}
	}
	if !st.expect(int64(len(p)), f.StreamEnded()) {
		r.regrant()
		return r.cancel(st, http2.ErrCodeProtocol)
	}
	if pad := size - int64(len(p)); pad > 0 && !f.StreamEnded() {
		r.client.out.window(st.id, uint32(pad))
	}
	if st.held != nil {
		return r.holdData(ctx, st, p, f.StreamEnded())
	}
	r.upstream.control.sent(int64(len(p)))
	if st.chunks != nil {
		r.sendSigned(st, p, f.StreamEnded())
	} else {
		r.sendData(st, p, f.StreamEnded())
	}
	r.regrant()
	if len(st.queue) == 0 {
		r.closeDone(st)
	}
	return nil
}

// expect counts n bytes of content against the request's content-length, which
// an HTTP/1.1 hop behind the upstream may believe (RFC 9113 §8.1.1). It reports
// whether they agree so far.
func (st *h2stream) expect(n int64, last bool) bool {
	if st.length < 0 {
		return true
	}
	st.length -= n
	return st.length == 0 || st.length > 0 && !last
}

// upstreamData relays DATA of a response.
func (r *h2relay) upstreamData(f *http2.DataFrame) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, size := f.Data(), int64(f.Length)
	if err := r.upstream.take(size); err != nil {
		return err
	}
	r.pinged = false
	st := r.serving(f.StreamID)
	if st == nil {
		r.regrant()
		return r.staleUpstream(f.StreamID)
	}
	if !st.answered || st.upstreamDone || st.head && len(p) > 0 {
		return r.broken(st)
	}
	if len(p) == 0 && !f.StreamEnded() {
		if err := r.countControl(r.upstream); err != nil {
			return err
		}
	}
	st.received += int64(len(p))
	st.upstreamDone = f.StreamEnded()
	if pad := size - int64(len(p)); pad > 0 && !st.upstreamDone {
		r.upstream.out.window(st.up, uint32(pad))
	}
	switch {
	case st.decode != nil:
		st.decode.feed(r, p)
	case st.framing != framedNot && !st.messages.Pass(p):
		st.reason = faultCoding.Reason
		return r.breakMessages(st, redact.ErrCoding)
	default:
		r.relayData(st, p)
	}
	r.regrant()
	return nil
}

// relayData sends p, redacted, to the client, and the end of the stream with it.
// The mutex is held.
func (r *h2relay) relayData(st *h2stream, p []byte) {
	need := int64(len(p))
	if st.redact != nil {
		need += int64(st.redact.Held())
	}
	if need > r.client.window {
		id := st.id
		r.awaitWindow(need)
		if r.streams[id] != st {
			return
		}
	}
	at := r.appendData(st, p)
	n := int64(r.client.out.endPayload(at))
	r.client.out.endData(at, st.upstreamDone)
	r.client.window -= n
	r.client.control.sent(n)
	st.window -= n
	r.closeDone(st)
}

// appendData begins a DATA frame with what the stream's redactor gives out for p.
func (r *h2relay) appendData(st *h2stream, p []byte) int {
	q := r.client.out
	r.arm(st)
	if st.meter != nil {
		st.meter.Write(p)
		if st.upstreamDone {
			st.meter.Done(st.sent, st.status) // before the client has the end, and may ask again
		}
	}
	if st.redact == nil {
		q.reserve(frameHeaderBytes + len(p))
		at := q.begin(http2.FrameData, 0, st.id)
		q.buf = append(q.buf, p...)
		return at
	}
	before := st.redact.Held()
	q.reserve(frameHeaderBytes + before + len(p))
	at := q.begin(http2.FrameData, 0, st.id)
	q.buf = st.redact.Append(q.buf, p)
	switch {
	case st.upstreamDone:
		q.buf = st.redact.Flush(q.buf)
	case st.framing != framedNot && st.messages.Whole():
		q.buf = st.redact.Release(q.buf)
	}
	r.held += int64(st.redact.Held() - before)
	return at
}

// arm gives a stream a redactor once a real key went out on the connection, and
// widens the one that it has. The mutex is held.
func (r *h2relay) arm(st *h2stream) {
	set := r.covering(st)
	switch {
	case set == nil:
	case st.redact == nil:
		st.redact = set.Stream()
	default:
		st.redact.Widen(set)
	}
}

// covering returns what the answer of st is searched for. The mutex is held.
func (r *h2relay) covering(st *h2stream) *redact.Set {
	r.set = r.judge.latest(r.set)
	return st.own.with(r.set)
}
