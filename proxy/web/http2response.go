package web

import (
	"net/http"
	"strconv"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/proxy/swap"
)

// maxEarly bounds the 1xx answers to one request.
const maxEarly = 16

// refuseFault is what a client gets for an upstream that broke HTTP/2.
var refuseFault = swap.Refusal{Status: 502, Reason: "upstream_malformed", Detail: "the upstream broke the rules of HTTP/2"}

// upstreamFrame relays one frame of the upstream. It is called from its reader.
func (r *h2relay) upstreamFrame(f http2.Frame) error {
	if !r.upstream.greeted {
		if s, ok := f.(*http2.SettingsFrame); !ok || s.IsAck() {
			return fault(http2.ErrCodeProtocol, errGreeting)
		}
	}
	switch f := f.(type) {
	case *http2.DataFrame:
		return r.upstreamData(f)
	case *http2.HeadersFrame:
		if done, err := r.upstream.block.begin(f); err != nil || !done {
			return err
		}
		return r.upstreamHeaders()
	case *http2.ContinuationFrame:
		if done, err := r.upstream.block.next(f); err != nil || !done {
			return err
		}
		return r.upstreamHeaders()
	case *http2.WindowUpdateFrame:
		return r.upstreamWindow(f)
	case *http2.RSTStreamFrame:
		return r.upstreamReset(f)
	case *http2.PushPromiseFrame:
		return fault(http2.ErrCodeProtocol, errPush)
	}
	return r.connFrame(r.upstream, r.client, f)
}

// upstreamReset passes RST_STREAM on. NO_ERROR after a whole answer is how a
// server says that it needs no more of the request; all others count as resets,
// since a client can provoke them.
func (r *h2relay) upstreamReset(f *http2.RSTStreamFrame) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.serving(f.StreamID)
	if st == nil {
		return r.staleUpstream(f.StreamID)
	}
	if st.decode != nil && st.upstreamDone {
		return nil // the decoder still has the end of the answer to send
	}
	r.client.out.reset(st.id, f.ErrCode)
	r.remember(st.id)
	if st.upstreamDone {
		r.close(st)
		r.regrant()
		return nil
	}
	st.reason = "upstream_reset"
	return r.forget(st)
}

// upstreamHeaders takes a complete header block of the upstream: an answer's
// head, a 1xx, or trailers.
func (r *h2relay) upstreamHeaders() error {
	b := r.upstream.block
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pinged = false
	st := r.serving(b.stream)
	if st == nil {
		return r.staleUpstream(b.stream)
	}
	if b.large || st.upstreamDone {
		return r.broken(st)
	}
	if st.answered {
		return r.responseTrailers(st, b)
	}
	status, fields, err := parseStatus(b.fields)
	if err != nil {
		return r.broken(st)
	}
	if status < 200 {
		return r.relayEarly(st, b)
	}
	return r.response(st, b, status, fields)
}

func (r *h2relay) relayEarly(st *h2stream, b *headerBlock) error {
	if st.early++; b.endStream || st.early > maxEarly {
		return r.broken(st)
	}
	r.appendResponse(st, b.fields, false, "")
	return nil
}

// response relays the head of an answer. On a connection that carries a key,
// a body that cannot be searched as it is gets decoded or refused.
func (r *h2relay) response(st *h2stream, b *headerBlock, status int, fields []hpack.HeaderField) error {
	var coded coding
	if r.judge.searched(r.set) && !b.endStream && !st.head {
		var known bool
		if coded, known = contentCoding(fields); !known || coded.each && st.capture != nil {
			r.upstream.out.reset(st.up, http2.ErrCodeCancel)
			fault := faultCoding
			if st.capture != nil {
				fault = st.capture.refused
			}
			r.fail(st, fault)
			return nil
		}
	}
	if st.capture != nil && status == http.StatusPartialContent && !st.head {
		if !b.endStream {
			r.upstream.out.reset(st.up, http2.ErrCodeCancel)
		}
		r.fail(st, st.capture.refused)
		return nil
	}
	st.status, st.answered, st.upstreamDone = status, true, b.endStream
	if st.capture != nil && !b.endStream && !st.head {
		r.captureAnswer(st, b.fields, coded)
		return nil
	}
	st.capture, st.framing = nil, coded.framing
	if coded.list != "" {
		r.decode(st, coded)
	}
	r.appendResponse(st, b.fields, b.endStream, coded.list)
	r.closeDone(st)
	return nil
}

// contentCoding tells how an answer with these fields is compressed, and whether that
// can be undone.
func contentCoding(fields []hpack.HeaderField) (coding, bool) {
	content, messages, f := "", "", framedNot
	for i := range fields {
		value := fields[i].Value
		switch fields[i].Name {
		case "content-type":
			f = max(f, framingOf(value))
		case "content-encoding":
			if content != "" {
				content += ", "
			}
			content += string(undone([]byte(value)))
		case "grpc-encoding", "connect-content-encoding":
			if plainCoding(value) {
				continue
			}
			if messages != "" {
				return coding{}, false
			}
			messages = value
		}
	}
	return codingOf(content, messages, f)
}

// appendResponse encodes a response's header list, redacted. With a coding that
// is being undone, the fields that speak of it are left out; alt-svc always, as
// it would lead the agent to where nothing is relayed (QUIC). The mutex is held.
func (r *h2relay) appendResponse(st *h2stream, list []hpack.HeaderField, last bool, coding string) {
	q, set := r.client.out, r.covering(st)
	at := q.begin(http2.FrameHeaders, 0, st.id)
	for _, f := range list {
		switch f.Name {
		case "alt-svc":
			continue
		case "content-encoding", "content-length", "grpc-encoding", "connect-content-encoding":
			if coding != "" {
				continue
			}
		}
		if coding != "" && checksCoding([]byte(f.Name)) {
			continue
		}
		if r.hide(set, f.Name) == f.Name {
			q.field(f.Name, r.hide(set, f.Value), f.Sensitive)
		}
	}
	q.endHeaders(at)
	if last {
		q.buf[at+4] |= byte(http2.FlagHeadersEndStream)
	}
}

// hide redacts a field's value.
func (r *h2relay) hide(set *redact.Set, value string) string {
	if set == nil {
		return value
	}
	r.hidden = append(r.hidden[:0], value...)
	clean := set.Value(r.hidden)
	if len(clean) == 0 || &clean[0] == &r.hidden[0] {
		return value
	}
	return string(clean)
}

// responseTrailers relays an answer's trailers after what the redactor still
// holds.
func (r *h2relay) responseTrailers(st *h2stream, b *headerBlock) error {
	if !b.endStream {
		return r.broken(st)
	}
	for _, f := range b.fields {
		if checkField(f) != nil {
			return r.broken(st)
		}
	}
	if st.decode != nil {
		st.decode.trailers = append(st.decode.trailers, b.fields...)
		st.upstreamDone = true
		st.decode.feed(r, nil)
		return nil
	}
	r.relayHeld(st)
	st.upstreamDone = true
	r.endWithTrailers(st, b.fields)
	return nil
}

// endWithTrailers ends the answer of a stream. The mutex is held.
func (r *h2relay) endWithTrailers(st *h2stream, fields []hpack.HeaderField) {
	if set := r.covering(st); set != nil {
		for i := range fields {
			fields[i].Value = r.hide(set, fields[i].Value)
		}
	}
	appendTrailers(r.client.out, st.id, fields)
	st.meter.Done(st.sent, st.status)
	r.closeDone(st)
}

// relayHeld sends what the redactor holds back, when no DATA comes after it.
func (r *h2relay) relayHeld(st *h2stream) {
	if st.redact == nil || st.redact.Held() == 0 {
		return
	}
	q := r.client.out
	n := st.redact.Held()
	q.reserve(frameHeaderBytes + n)
	at := q.begin(http2.FrameData, 0, st.id)
	q.buf = st.redact.Flush(q.buf)
	q.endData(at, false)
	r.held -= int64(n)
	r.client.window -= int64(n)
	st.window -= int64(n)
	r.regrant()
}

// broken ends a stream whose answer is malformed. The mutex is held.
func (r *h2relay) broken(st *h2stream) error {
	r.upstream.out.reset(st.up, http2.ErrCodeProtocol)
	r.fail(st, &refuseFault)
	return nil
}

// answer gives a stream an answer of our own and, when the request has not
// ended, RST_STREAM with code. Without a window for it the body is left out. The
// mutex is held.
func (r *h2relay) answer(st *h2stream, ref *swap.Refusal, code http2.ErrCode) {
	q := r.client.out
	body := ref.Body()
	if st.head || int64(len(body)) > min(r.client.window, st.window) {
		body = nil
	}
	at := q.begin(http2.FrameHeaders, 0, st.id)
	q.field(":status", strconv.Itoa(ref.Status), false)
	q.field("content-type", "application/json", false)
	q.field("x-superserve-error", ref.Reason, false)
	q.field("content-length", strconv.Itoa(len(body)), false)
	q.endHeaders(at)
	if len(body) == 0 {
		q.buf[at+4] |= byte(http2.FlagHeadersEndStream)
	} else {
		q.data(st.id, body, true)
	}
	r.client.window -= int64(len(body))
	if !st.clientDone || code != http2.ErrCodeNo {
		q.reset(st.id, code)
	}
}
