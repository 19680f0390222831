package web

import (
	"context"
	"io"
	"net/http"
	"strconv"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/proxy/swap"
)

// capture takes the tokens out of the answer to one request, before any of it goes to
// the client. Such an answer is read whole: it is small, or is refused.
type capture struct {
	take func(a swap.Answer) ([]byte, *swap.Plan, *swap.Refusal)
	// refused is the answer in place of one that cannot be searched.
	refused *swap.Refusal
}

// captureOf returns nil for a plan whose answer holds no tokens. What is stored of them
// is stored within ctx.
func captureOf(ctx context.Context, plan *swap.Plan) *capture {
	c := plan.Capture()
	if c == nil {
		return nil
	}
	return &capture{
		take:    func(a swap.Answer) ([]byte, *swap.Plan, *swap.Refusal) { return c.Take(ctx, a) },
		refused: c.RefuseUncaptured(),
	}
}

// readAnswer reads a whole answer and undoes its content coding. ok is false for one
// that is too long, or does not decode.
func readAnswer(coding string, r io.Reader) (body []byte, ok bool, err error) {
	decoded, err := redact.Decode(coding, r)
	if err != nil {
		return nil, false, nil
	}
	if c, ok := decoded.(io.Closer); ok {
		defer c.Close() //nolint:errcheck // frees memory only
	}
	body, err = io.ReadAll(io.LimitReader(decoded, swap.MaxAnswer+1))
	return body, err == nil && len(body) <= swap.MaxAnswer, err
}

// captures reports whether the answer whose head was parsed is to be searched for
// tokens.
func (r *h1relay) captures() bool { return r.capture != nil && r.res.body != bodyNone }

// relayCaptured forwards an answer, of whose head n bytes were parsed, without its
// tokens.
func (r *h1relay) relayCaptured(n int) (keep bool, fault *swap.Refusal, err error) {
	if r.res.codings > 1 || r.res.status == http.StatusPartialContent {
		return false, r.capture.refused, nil
	}
	a := &r.passing
	*a = answerBody{r: r, framing: bodyChunked, section: a.section, left: r.res.length}
	if r.req.http10 {
		a.framing = bodyClose
	}
	keep = !r.req.close && !r.req.http10 && !r.res.close
	status, kind, coding := r.res.status, string(r.res.contentType()), string(r.res.coding)
	head := r.res.appendTo(nil, a.framing, true, !keep)
	r.up.consume(n)
	r.event.Received += int64(n)
	body, ok, err := readAnswer(coding, a)
	if !ok {
		return false, r.capture.refused, err
	}
	body, covered, refused := r.capture.take(swap.Answer{Status: status, Type: kind, Body: body})
	if refused != nil {
		return false, refused, nil
	}
	r.cover(covered)
	r.event.Status = status
	a.stream = r.covering().Stream()
	r.back = append(r.back[:0], r.clean(head)...) // once more: a cookie may repeat a token
	a.redact(body)
	if err := a.finish(); err != nil {
		return false, nil, err
	}
	return keep, nil, r.flush()
}

func (h *responseHead) contentType() []byte {
	for i := range h.fields {
		if foldEqual(h.fields[i].Name, "content-type") {
			return h.fields[i].Value
		}
	}
	return nil
}

// captureAnswer keeps an answer back until it is whole and without its tokens. The mutex
// is held.
func (r *h2relay) captureAnswer(st *h2stream, list []hpack.HeaderField, c coding) {
	st.answer = append([]hpack.HeaderField(nil), list...)
	r.decode(st, c)
}

// runCaptured is run for an answer that is searched for tokens.
func (d *h2decoder) runCaptured(coding string) {
	r, st := d.relay, d.st
	body, ok, _ := readAnswer(coding, d)
	r.mu.Lock()
	gone := d.done || r.over
	ok = ok && wholeAnswer(st)
	r.mu.Unlock()
	if gone {
		return
	}
	refused, covered := st.capture.refused, (*swap.Plan)(nil)
	if ok {
		body, covered, refused = st.capture.take(swap.Answer{Status: st.status, Type: contentType(st.answer), Body: body})
	}
	r.mu.Lock()
	if d.done || r.over {
		r.mu.Unlock()
		return
	}
	if refused != nil {
		if !st.upstreamDone {
			r.upstream.out.reset(st.up, http2.ErrCodeCancel)
		}
		st.answered = false
		r.fail(st, refused)
		r.mu.Unlock()
		return
	}
	r.set = r.judge.cover(r.set, covered)
	r.appendResponse(st, st.answer, false, "captured")
	r.mu.Unlock()
	if d.send(body, false) {
		d.end(io.EOF)
	}
}

// wholeAnswer reports whether an answer is as long as it said, if it did. The mutex is
// held.
func wholeAnswer(st *h2stream) bool {
	for _, f := range st.answer {
		if f.Name == "content-length" {
			return f.Value == strconv.FormatInt(st.received, 10)
		}
	}
	return true
}

func contentType(list []hpack.HeaderField) string {
	for _, f := range list {
		if f.Name == "content-type" {
			return f.Value
		}
	}
	return ""
}
