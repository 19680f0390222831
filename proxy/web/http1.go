package web

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/budget"
	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/proxy/swap"
)

const (
	// headTimeout bounds a client's head, from its first byte to its last. There
	// is no other deadline: an answer may take hours.
	headTimeout = 20 * time.Second
	// refuseTimeout bounds writing an answer of our own, and how long a client
	// may go on sending after it.
	refuseTimeout = 2 * time.Second
	// maxDrained bounds what such a client may still send, in bytes: what a fast one has
	// under way before it has read an answer that came early.
	maxDrained = 32 << 20
	// restTime is how long an upstream connection may idle before it is checked
	// for having been closed.
	restTime = time.Second
	// maxInterim bounds the 1xx answers to one request.
	maxInterim = 32
	// maxInline is the largest piece of a body that shares a write with its head.
	maxInline = 12 << 10
	// maxProbe bounds white space before a request: one empty line (RFC 9112 §2.2).
	maxProbe = 2
)

// errGone means that the client went away; nobody is left to be told.
var errGone = errors.New("the client went away")

// h1relay relays HTTP/1.1 between the two connections of a session. One
// goroutine does all of it; a second one runs only while a request's body is
// still coming in, so that an answer may overtake it.
type h1relay struct {
	s   *session
	in  window // from the client
	up  window // from the upstream
	req requestHead
	res responseHead
	*texts

	watch   watch
	upload  upload
	body    chunkParser // of the request
	held    held
	capture *capture // of the answer's tokens; nil for nearly all
	passing answerBody
	meter   *budget.Meter // of the answer; nil for nearly all

	pairs    []redact.Pair
	own      ownKeys // of the request that is answered
	cuts     uint64  // before the secrets of the request were asked for
	event    audit.Event
	isHead   bool
	answered bool // bytes of the final answer went to the client
	served   bool // the upstream connection has answered before
	idle     bool // the upstream's last answer was whole, and another request may follow
	resting  time.Time
	accept   [28]byte // the Sec-WebSocket-Accept that is expected
}

func newH1Relay(s *session) *h1relay {
	r := &h1relay{s: s, served: s.reused, idle: s.reused}
	r.in.conn, r.up.conn = s.client, s.upstream
	r.upload.r, r.watch.r = r, r
	return r
}

func (s *session) serveHTTP1(ctx context.Context) error {
	r := newH1Relay(s)
	defer r.release()
	for {
		n, ref, err := r.await()
		if err != nil {
			return r.leave(err)
		}
		if keep, err := r.exchange(ctx, n, ref); err != nil || !keep {
			r.retire()
			return err
		}
	}
}

func (r *h1relay) release() {
	r.watch.disarm()
	r.in.release()
	r.up.release()
}

// leave ends a connection between requests. The upstream is parked if the
// client closed cleanly and nothing is under way.
func (r *h1relay) leave(err error) error {
	if !errors.Is(err, io.EOF) || !r.in.empty() {
		return err
	}
	r.retire()
	return nil
}

// retire parks the upstream if its last answer was whole and it owes nothing.
func (r *h1relay) retire() {
	if r.idle && r.s.target.TLS && r.up.empty() && quiet(r.up.conn) {
		r.s.leave()
	}
}

// await waits for a whole head and returns its length.
func (r *h1relay) await() (int, *swap.Refusal, error) {
	r.in.rest()
	r.up.rest()
	scanned, timed := 0, false
	for {
		if !r.in.empty() {
			r.skipEmptyLine()
			n, ref := headEnd(r.in.bytes(), scanned)
			if n > 0 || ref != nil {
				return n, ref, r.clearDeadline(timed)
			}
			scanned = len(r.in.bytes())
		}
		if scanned > 0 && !timed {
			r.in.conn.SetReadDeadline(time.Now().Add(headTimeout)) //nolint:errcheck // the read fails then
			timed = true
		}
		if err := r.in.fill(headBuffer); err != nil {
			return 0, r.headFault(err), r.headError(err)
		}
	}
}

func (r *h1relay) clearDeadline(timed bool) error {
	if !timed {
		return nil
	}
	return r.in.conn.SetReadDeadline(time.Time{})
}

// skipEmptyLine drops one CRLF before a request line, which some clients send
// after a body.
func (r *h1relay) skipEmptyLine() {
	if b := r.in.bytes(); len(b) > maxProbe && b[0] == '\r' && b[1] == '\n' {
		r.in.consume(maxProbe)
	}
}

// headFault is what the client is told when its head could not be read.
func (r *h1relay) headFault(err error) *swap.Refusal {
	var ne net.Error
	switch {
	case errors.Is(err, errBufferFull):
		return refuseHeadSize
	case errors.As(err, &ne) && ne.Timeout() && !r.in.empty():
		return refuseTimeout408
	}
	return nil
}

func (r *h1relay) headError(err error) error {
	if r.headFault(err) != nil {
		return nil
	}
	return err
}

// exchange relays one request and its answer. keep says that another request
// may follow.
func (r *h1relay) exchange(ctx context.Context, n int, ref *swap.Refusal) (keep bool, err error) {
	r.texts = textPool.Get().(*texts)
	defer func() {
		r.letGo()
		r.texts.release()
		r.texts = nil
	}()
	r.begin(n)
	if ref == nil {
		ref = r.req.parse(r.head, r.s.target.TLS)
	}
	if ref == nil {
		ref = r.req.checkHost(&r.s.target)
	}
	if ref != nil {
		return false, r.refuse(ref, false)
	}
	r.name()
	if ref := r.permit(); ref != nil {
		return r.bodyless(), r.refuse(ref, r.bodyless())
	}
	if ref, err := r.hold(); err != nil || ref != nil {
		return false, r.unheld(ref, err)
	}
	for {
		again, keep, err := r.attempt(ctx)
		if !again {
			return keep, err
		}
		// The parked connection turned out to be dead, and the request may be
		// repeated: it is judged anew and sent on a new connection.
		if ref := r.req.parse(r.head, r.s.target.TLS); ref != nil {
			return false, r.refuse(ref, false)
		}
		if err := r.redial(ctx); err != nil {
			return false, r.refuse(dialRefusal(r.s.target, err), false)
		}
	}
}

// unheld ends a request whose content could not be read.
func (r *h1relay) unheld(ref *swap.Refusal, err error) error {
	if ref != nil {
		return r.refuse(ref, false)
	}
	return r.end(errors.Join(errGone, err))
}

// begin takes the head out of the client's buffer. Fields alias the copy, so
// that the buffer is free for the body.
func (r *h1relay) begin(n int) {
	r.head = append(r.head[:0], r.in.bytes()[:n]...)
	r.in.consume(n)
	r.answered, r.isHead, r.body = false, false, chunkParser{}
	r.letGo()
	r.event = audit.Event{
		Time: time.Now(), Kind: audit.Request, Conn: r.s.conn.ID, Protocol: "web",
		Name: string(r.s.conn.Host), Port: r.s.conn.Port,
	}
}

// name notes for the audit what the request asks for.
func (r *h1relay) name() {
	r.isHead = string(r.req.method) == http.MethodHead
	r.event.Method = methodName(r.req.method)
	path, _, _ := bytes.Cut(r.req.target, []byte("?"))
	r.event.Path = r.s.srv.swap.AuditPath(string(path))
}

// methodName is string(m) without an allocation for what is common.
func methodName(m []byte) string {
	switch string(m) {
	case http.MethodGet:
		return http.MethodGet
	case http.MethodPost:
		return http.MethodPost
	case http.MethodHead:
		return http.MethodHead
	case http.MethodPut:
		return http.MethodPut
	case http.MethodDelete:
		return http.MethodDelete
	}
	return string(m)
}

// attempt judges and sends the parsed request and relays the answer. again says
// that nothing came back on a parked connection.
func (r *h1relay) attempt(ctx context.Context) (again, keep bool, err error) {
	r.cuts = r.s.srv.cuts.Load()
	plan, ref := r.s.srv.swap.JudgeRequest(ctx, r.s.target,
		swap.Request{
			Method: r.event.Method, Target: r.req.target, Fields: r.req.fields,
			Content: r.held.content(nil), Cut: r.hasContent() && !r.held.whole, Body: r.held.plain,
		})
	if ref == nil {
		ref = r.req.checkEdits(plan)
	}
	if ref != nil {
		return false, r.bodyless(), r.refuse(ref, r.bodyless())
	}
	if err := r.ready(ctx); err != nil {
		return false, false, r.refuse(dialRefusal(r.s.target, err), false)
	}
	if plan != nil {
		if ref := r.admit(ctx, plan); ref != nil {
			return false, r.bodyless(), r.refuse(ref, r.bodyless())
		}
		defer r.metered()
		if ref := r.use(plan); ref != nil {
			return false, r.bodyless(), r.refuse(ref, r.bodyless())
		}
	}
	r.idle, r.capture, r.own = false, captureOf(ctx, plan), ownOf(plan)
	if ref := r.send(plan); ref != nil {
		return false, false, r.refuse(ref, false)
	}
	keep, err = r.answer()
	if again = r.s.reused && errors.Is(err, errUnanswered); again {
		return true, false, nil
	}
	r.s.reused = false
	return false, keep, r.end(err)
}

// bodyless reports that the whole request has been read.
func (r *h1relay) bodyless() bool {
	return !r.req.close && !r.req.http10 && (r.held.whole || r.req.body == bodyNone || r.req.body == bodyLength && r.req.length == 0)
}

// ready makes sure of an upstream connection that can take the request.
func (r *h1relay) ready(ctx context.Context) error {
	s := r.s
	switch {
	case s.reused && !r.req.repeatable():
		s.leave() // for a client whose request may be repeated
	case s.reused, !r.served:
		return nil
	case r.event.Time.Sub(r.resting) < restTime || quiet(s.upstream):
		return nil
	}
	return r.redial(ctx)
}

// redial gets a new upstream connection, before any byte of the request was
// sent or when it may be sent twice.
func (r *h1relay) redial(ctx context.Context) error {
	var offer []string
	if r.s.target.TLS {
		offer = []string{protoHTTP1}
	}
	r.up.release()
	if err := r.s.redial(ctx, offer); err != nil {
		return err
	}
	r.up.conn, r.served, r.idle = r.s.upstream, false, false
	return nil
}

// use records that the plan's secrets are about to be sent, and widens what is
// searched for in the answers. Without the record nothing is sent.
func (r *h1relay) use(plan *swap.Plan) *swap.Refusal {
	if ref := r.s.note(plan, r.cuts); ref != nil {
		return ref
	}
	for i := range plan.Secrets {
		if i > 0 && plan.Secrets[i].Name == plan.Secrets[i-1].Name {
			continue
		}
		e := r.event
		e.Kind, e.Verdict, e.Secret = audit.Credential, audit.Allowed, plan.Secrets[i].Name
		if r.s.srv.audit.Record(e) != nil {
			return refuseUnrecorded
		}
	}
	if len(plan.Secrets) > 0 {
		r.event.Secret = plan.Secrets[0].Name
	}
	r.cover(plan)
	return nil
}

// cover widens the redaction by the plan's secrets: before they are sent, and
// once more after, for one that rotates in between.
func (r *h1relay) cover(plan *swap.Plan) {
	r.pairs = plan.AppendPairs(r.pairs[:0])
	r.s.set = r.s.srv.forms.With(r.s.set, r.pairs)
	clear(r.pairs)
}

// covering returns what the answer is searched for.
func (r *h1relay) covering() *redact.Set { return r.own.with(r.s.latest()) }

// end records the request. err is that of relaying it.
func (r *h1relay) end(err error) error {
	r.resting = time.Now()
	if r.event.Verdict != "" {
		return err // refused, and recorded by refuse
	}
	r.event.Duration = r.resting.Sub(r.event.Time)
	r.event.Verdict = audit.Allowed
	if err != nil {
		r.event.Verdict, r.event.Reason = audit.Failed, "aborted"
	}
	return errors.Join(err, r.s.srv.audit.Record(r.event))
}

// refuse answers ref and records it. Without keep the connection ends: what the
// client still sends is read for a moment, so that the answer is not lost to a
// reset.
func (r *h1relay) refuse(ref *swap.Refusal, keep bool) error {
	r.event.Verdict, r.event.Reason, r.event.Status = audit.Refused, ref.Reason, ref.Status
	if ref.Status == http.StatusBadGateway || ref.Status == http.StatusGatewayTimeout {
		r.event.Verdict = audit.Failed
	}
	if ref.Secret != "" {
		r.event.Secret = ref.Secret
	}
	r.event.Duration = time.Since(r.event.Time)
	var err error
	if !r.s.told {
		err = r.s.srv.audit.Record(r.event)
	}
	r.back = appendRefusal(r.back[:0], ref, !keep, r.isHead)
	r.in.conn.SetWriteDeadline(time.Now().Add(refuseTimeout)) //nolint:errcheck // the write fails then
	if _, werr := r.in.conn.Write(r.back); werr != nil {
		return errors.Join(err, werr)
	}
	if keep {
		return errors.Join(err, r.in.conn.SetWriteDeadline(time.Time{}))
	}
	r.lingerClose()
	return err
}

// lingerClose says that nothing more comes, and reads what the client has
// under way until it closes: closing at once would reset the connection and
// could cost the client the answer. An upload that still runs does the reading.
func (r *h1relay) lingerClose() {
	s := r.s
	if half, ok := s.client.(interface{ CloseWrite() error }); ok {
		half.CloseWrite() //nolint:errcheck // the client is leaving
	}
	if s.client != net.Conn(s.conn) {
		halfClose(s.conn.Conn)
	}
	s.conn.SetReadDeadline(time.Now().Add(refuseTimeout)) //nolint:errcheck // the read fails then
	if r.upload.active {
		r.upload.discard.Store(true)
		r.upload.join()
		return
	}
	buf := takeBuffer(smallBuffer)
	defer giveBuffer(buf)
	for n := 0; n < maxDrained; {
		m, err := s.conn.Read(buf)
		if n += m; err != nil {
			return
		}
	}
}

func halfClose(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite() //nolint:errcheck // the client is leaving
	}
}
