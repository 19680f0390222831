package web

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/superserve/superserve/proxy/swap"
)

var (
	refuseCrowd = swap.Refusal{
		Status: 503, Reason: "too_many_streams",
		Detail: "more than 256 requests are open on this connection",
	}
	refuseTrailers = swap.Refusal{
		Status: 403, Reason: swap.ReasonPlace,
		Detail: "a credential stands in the request's trailers",
		Advice: "send it in the request's head",
	}
)

// clientFrame relays one frame of the client. It is called from its reader.
func (r *h2relay) clientFrame(ctx context.Context, f http2.Frame) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		return r.clientData(ctx, f)
	case *http2.HeadersFrame:
		if done, err := r.client.block.begin(f); err != nil || !done {
			return err
		}
		return r.clientHeaders(ctx)
	case *http2.ContinuationFrame:
		if done, err := r.client.block.next(f); err != nil || !done {
			return err
		}
		return r.clientHeaders(ctx)
	case *http2.WindowUpdateFrame:
		return r.clientWindow(f)
	case *http2.RSTStreamFrame:
		return r.clientReset(f)
	case *http2.PushPromiseFrame:
		return fault(http2.ErrCodeProtocol, errPush)
	}
	return r.connFrame(r.client, r.upstream, f)
}

func (r *h2relay) clientReset(f *http2.RSTStreamFrame) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.streams[f.StreamID]
	if st == nil {
		if f.StreamID > r.client.lastID || f.StreamID%2 == 0 {
			return fault(http2.ErrCodeProtocol, errIdle)
		}
		return r.countControl(r.client)
	}
	st.reason = "canceled"
	r.resetUpstream(st, f.ErrCode)
	return r.forget(st)
}

// clientHeaders takes a complete header block of the client: a request, or the
// trailers of one.
func (r *h2relay) clientHeaders(ctx context.Context) error {
	b := r.client.block
	r.mu.Lock()
	st := r.streams[b.stream]
	if st == nil && b.stream <= r.client.lastID || b.stream%2 == 0 {
		defer r.mu.Unlock()
		return r.stale(b.stream)
	}
	if st == nil {
		r.client.lastID = b.stream
	}
	r.mu.Unlock()
	if st != nil {
		return r.requestTrailers(ctx, b)
	}
	return r.request(ctx, b)
}

// request judges a new request and forwards or answers it.
func (r *h2relay) request(ctx context.Context, b *headerBlock) error {
	req, malformed := parseRequest(b.fields)
	if malformed == nil && b.endStream && req.length > 0 {
		malformed = errContentLength
	}
	r.mu.Lock()
	st := r.open(b.stream, &req)
	st.clientDone = b.endStream
	r.mu.Unlock()
	ref := r.admit(b, &req, malformed)
	var plan *swap.Plan
	if ref == nil {
		req.fields = joinCookies(req.fields)
		if !b.endStream && req.length <= swap.MaxBody && r.judge.wantsBody(r.judged(req.fields)) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.hold(st, &req)
			return nil
		}
		plan, ref = r.decide(ctx, st, &req, nil, nil)
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if ref == nil {
		r.forward(st, &req, plan)
		return nil
	}
	code := http2.ErrCodeNo
	if malformed != nil {
		code = http2.ErrCodeProtocol
	}
	st.refused, st.reason, st.status = true, ref.Reason, ref.Status
	r.answer(st, ref, code)
	r.remember(st.id)
	r.close(st)
	if malformed != nil && !r.resets.take() {
		return fault(http2.ErrCodeEnhanceYourCalm, errResets)
	}
	return nil
}

// admit applies the rules that need no look at credentials.
func (r *h2relay) admit(b *headerBlock, req *h2request, malformed error) *swap.Refusal {
	switch {
	case b.large:
		return refuseHeadSize
	case malformed != nil:
		return refuseMalformed(malformed)
	case len(req.path) > maxTargetBytes:
		return refuseTargetSize
	case !r.judge.owns(req.authority):
		return refuseMisdirect
	case r.crowded():
		return &refuseCrowd
	}
	return r.judge.permit(req.method, req.path)
}

// decide judges a request's credentials, and records the use of keys: when it returns
// without a refusal the keys may be sent.
func (r *h2relay) decide(ctx context.Context, st *h2stream, req *h2request, content, body []byte) (*swap.Plan, *swap.Refusal) {
	fields := r.judged(req.fields)
	at := len(r.arena)
	r.arena = append(r.arena, req.path...) // fields may stay behind in a smaller one
	plan, ref := r.judge.credentials(ctx, swap.Request{
		Method: req.method, Host: req.authority, Target: r.arena[at:], Fields: fields, Content: content, Body: body,
		Cut: !st.clientDone || st.held != nil && len(st.held.data) > swap.MaxBody,
	})
	if ref != nil || plan == nil {
		return nil, ref
	}
	if ref := r.judge.admit(ctx, st, plan); ref != nil {
		return nil, ref
	}
	if ref := r.judge.use(st, plan); ref != nil {
		return nil, ref
	}
	st.capture = captureOf(ctx, plan)
	return plan, nil
}

func (r *h2relay) crowded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.streams) >= maxStreams
}

func refuseMalformed(err error) *swap.Refusal {
	if errors.Is(err, errConnect) || errors.Is(err, errMethod) {
		return refuseMethod
	}
	return badRequest("malformed", err.Error())
}

// judged views fields as the swapper takes them. The result is valid until the
// next call.
func (r *h2relay) judged(fields []hpack.HeaderField) []swap.Field {
	size := 0
	for _, f := range fields {
		size += len(f.Name) + len(f.Value)
	}
	if cap(r.arena) < size {
		r.arena = make([]byte, 0, 2*size)
	}
	r.arena, r.fields = r.arena[:0], r.fields[:0]
	keep := func(s string) []byte {
		at := len(r.arena)
		r.arena = append(r.arena, s...)
		return r.arena[at:len(r.arena):len(r.arena)]
	}
	for _, f := range fields {
		r.fields = append(r.fields, swap.Field{Name: keep(f.Name), Value: keep(f.Value)})
	}
	return r.fields
}

// forward sends a request upstream, with its keys when plan has any. The mutex
// is held.
func (r *h2relay) forward(st *h2stream, req *h2request, plan *swap.Plan) {
	searched := r.judge.searched(r.set)
	if plan != nil {
		searched, st.keyed, st.own = true, true, ownOf(plan)
		r.set = r.judge.cover(r.set, plan)
	}
	q := r.upstream.out
	r.number(st)
	at := q.begin(http2.FrameHeaders, 0, st.up)
	q.field(":method", req.method, false)
	q.field(":scheme", "https", false)
	q.field(":authority", r.authority, false)
	if plan.Target() {
		q.secretField(":path", len(req.path)+plan.Room(), plan.AppendTarget)
	} else {
		q.field(":path", req.path, false)
	}
	r.forwardFields(req, plan, searched)
	q.endHeaders(at)
	if st.clientDone && st.queue == nil {
		q.buf[at+4] |= byte(http2.FlagHeadersEndStream)
	}
	if plan != nil {
		// Once more: a secret that was rotated meanwhile is covered with both values.
		r.set = r.judge.cover(r.set, plan)
	}
	r.streams[st.id] = st
	if chunks := plan.Chunks(); chunks != nil {
		r.startSigned(st, chunks)
	}
}

// forwardFields encodes a request's fields. Where answers are searched for keys,
// the upstream is asked for ones that are not compressed.
func (r *h2relay) forwardFields(req *h2request, plan *swap.Plan, searched bool) {
	q := r.upstream.out
	var edits []swap.Edit
	room := 0
	if plan != nil {
		edits, room = plan.Edits, plan.Room()
	}
	narrowed := false
	for i, f := range req.fields {
		switch {
		case len(edits) > 0 && edits[0].Index == i:
			q.secretField(f.Name, room+2*len(f.Value), edits[0].AppendValue)
			edits = edits[1:]
		case searched && f.Name == "accept-encoding":
			if !narrowed {
				q.field(f.Name, "identity", false)
			}
			narrowed = true
		case req.reframed && f.Name == "content-length":
			q.field(f.Name, strconv.Itoa(req.newLength), false)
		case req.uncoded && f.Name == "content-encoding":
		case searched && (f.Name == "grpc-accept-encoding" || f.Name == "connect-accept-encoding"):
			q.field(f.Name, "identity", false)
		default:
			q.field(f.Name, f.Value, f.Sensitive)
		}
	}
}

// requestTrailers relays a request's trailers. None may carry a credential, of
// the agent's own or a placeholder: nothing swaps there.
func (r *h2relay) requestTrailers(ctx context.Context, b *headerBlock) error {
	var ref *swap.Refusal
	bad := b.large || !b.endStream || checkTrailers(b.fields) != nil
	if !bad {
		var plan *swap.Plan
		if plan, ref = r.judge.credentials(ctx, swap.Request{Fields: r.judged(b.fields)}); plan != nil {
			ref = &refuseTrailers
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.streams[b.stream]
	switch {
	case st == nil:
		return r.stale(b.stream)
	case st.clientDone:
		return fault(http2.ErrCodeStreamClosed, errClosed)
	case bad || !st.expect(0, true):
		return r.cancel(st, http2.ErrCodeProtocol)
	case st.held != nil:
		r.refuseHeld(st, refuseHeldTrailers)
		return nil
	case ref != nil:
		r.abandon(st, ref)
		return nil
	case st.chunks != nil && st.chunks.End() != nil:
		r.abandon(st, refuseSignedForm)
		return nil
	}
	st.clientDone = true
	if len(st.queue) > 0 {
		st.trailing, st.trailers = true, slices.Clone(b.fields)
		return nil
	}
	appendTrailers(r.upstream.out, st.up, b.fields)
	r.closeDone(st)
	return nil
}

func checkTrailers(fields []hpack.HeaderField) error {
	for _, f := range fields {
		if err := checkField(f); err != nil {
			return err
		}
		switch f.Name {
		case "host", "content-length", "te":
			return errHopField
		}
	}
	return nil
}

// appendTrailers encodes a header block that ends its stream. Empty trailers
// become an empty DATA frame, since a block without fields is no block.
func appendTrailers(q *frameQueue, stream uint32, fields []hpack.HeaderField) {
	if len(fields) == 0 {
		q.data(stream, nil, true)
		return
	}
	at := q.begin(http2.FrameHeaders, http2.FlagHeadersEndStream, stream)
	for _, f := range fields {
		q.field(f.Name, f.Value, f.Sensitive)
	}
	q.endHeaders(at)
}
