package web

import (
	"errors"
	"io"
	"net/http"

	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/proxy/swap"
)

var (
	// errUnanswered means that the upstream ended before the first byte of an
	// answer.
	errUnanswered = errors.New("the upstream closed the connection without an answer")
	// errTruncated means that an answer ended in its middle.
	errTruncated = errors.New("the upstream's answer ends early")
)

// answer relays the answer to the request that was sent, and waits for the rest
// of the request. keep says that both connections can take another one. With
// errUnanswered nothing was written to the client, and the caller may try again.
func (r *h1relay) answer() (keep bool, err error) {
	if !r.upload.active {
		r.watch.arm()
	}
	keep, fault, err := r.relayAnswer()
	if fault == nil && err == nil {
		return r.complete(keep), nil
	}
	if r.upload.active {
		fault, err = r.blame(fault, err)
	}
	gone := r.watch.disarm()
	switch {
	case gone || errors.Is(err, errGone):
		return false, errGone
	case r.answered:
		r.cut()
		return false, errors.Join(err, errTruncated)
	case fault == nil && errors.Is(err, errUnanswered) && (r.s.reused || r.served):
		// As without us: a kept connection that ends before an answer tells the
		// client that it may repeat the request.
		return false, errUnanswered
	case fault == nil && errors.Is(err, errUnanswered):
		fault = faultClosed
	case fault == nil:
		fault = faultFraming
	}
	return false, r.refuse(fault, false)
}

// cut ends a connection in the middle of an answer, so that the client sees that
// it is incomplete: without the orderly end of TLS, and with a reset where
// nothing but the end frames the body.
func (r *h1relay) cut() {
	if r.res.body == bodyClose {
		r.s.conn.Reset() //nolint:errcheck // it ends either way
	}
	r.s.abort()
	r.upload.join()
}

// complete ends an exchange whose answer is whole.
func (r *h1relay) complete(keep bool) bool {
	if r.upload.active && keep && r.req.expect && !r.upload.begun.Load() {
		// The final answer came instead of 100 (Continue): nobody knows whether the
		// body still follows (RFC 9110 §10.1.1).
		keep = false
	}
	if r.upload.active && !keep {
		r.lingerClose()
	}
	whole := r.upload.join()
	gone := r.watch.disarm()
	r.served = true
	r.idle = whole && !r.res.close && r.up.empty()
	return keep && whole && !gone && r.up.empty()
}

// blame finds out why an answer failed while the request was being sent.
func (r *h1relay) blame(fault *swap.Refusal, err error) (*swap.Refusal, error) {
	if !r.upload.failed.Load() {
		select {
		case <-r.upload.done:
			r.upload.done <- struct{}{}
		default:
			return fault, err // the upstream's doing: the upload still runs
		}
	}
	r.upload.join()
	switch {
	case r.upload.ref != nil:
		return r.upload.ref, nil
	case r.upload.err != nil:
		return nil, errGone
	}
	return fault, err
}

// relayAnswer relays interim answers and the final one. fault is what was wrong
// with an answer of which the client has seen nothing.
func (r *h1relay) relayAnswer() (keep bool, fault *swap.Refusal, err error) {
	for interim := 0; ; interim++ {
		n, fault, err := r.awaitAnswer()
		if fault != nil || err != nil {
			return false, fault, err
		}
		if fault := r.res.parse(r.clean(r.up.bytes()[:n]), r.req.method); fault != nil {
			return false, fault, nil
		}
		if r.res.status == http.StatusSwitchingProtocols {
			return r.switchProtocols(n)
		}
		if r.res.status >= 200 {
			return r.relayFinal(n)
		}
		if interim == maxInterim {
			return false, faultInterim, nil
		}
		if err := r.relayInterim(n); err != nil {
			return false, nil, err
		}
	}
}

// clean redacts a whole head, or a trailer section, at once: it keeps its length, so it
// parses as before.
func (r *h1relay) clean(p []byte) []byte {
	if set := r.covering(); set != nil {
		return set.Value(p)
	}
	return p
}

// awaitAnswer waits for a whole head and returns its length.
func (r *h1relay) awaitAnswer() (int, *swap.Refusal, error) {
	for scanned := 0; ; {
		if !r.up.empty() {
			n, ref := headEnd(r.up.bytes(), scanned)
			if ref != nil {
				return 0, faultHead, nil
			}
			if n > 0 {
				return n, nil, nil
			}
			scanned = len(r.up.bytes())
		}
		if err := r.up.fill(headBuffer); err != nil {
			if scanned > 0 {
				return 0, faultHead, nil
			}
			return 0, nil, errUnanswered
		}
	}
}

// relayInterim forwards a 1xx answer; HTTP/1.0 has none.
func (r *h1relay) relayInterim(n int) error {
	r.back = r.res.appendTo(r.back[:0], bodyNone, false, false)
	r.up.consume(n)
	r.event.Received += int64(n)
	if r.req.http10 {
		return nil
	}
	return r.flush()
}

// relayFinal forwards the head of n bytes that was parsed, and the body.
func (r *h1relay) relayFinal(n int) (keep bool, fault *swap.Refusal, err error) {
	if r.captures() {
		return r.relayCaptured(n)
	}
	searched := r.s.searched()
	var coded coding
	known := true
	if searched && r.res.body != bodyNone {
		coded, known = r.res.compression()
	}
	decode := coded.list != ""
	switch {
	case !known, decode && r.res.status == http.StatusPartialContent:
		return false, faultCoding, nil
	case r.res.body == bodyChunked && r.req.http10:
		return false, faultFraming, nil
	}
	a := &r.passing
	*a = answerBody{r: r, framing: r.res.body, section: a.section, framed: coded.framing != framedNot}
	if decode {
		if a.decoded, err = coded.open(a); err != nil {
			return false, faultCoding, nil
		}
		a.framing = bodyChunked
		if r.req.http10 {
			a.framing = bodyClose
		}
	}
	if searched {
		a.stream = r.covering().Stream()
	}
	keep = !r.req.close && !r.req.http10 && !r.res.close
	r.event.Status = r.res.status
	r.back = r.res.appendTo(r.back[:0], a.framing, decode, !keep)
	r.up.consume(n)
	r.event.Received += int64(n)
	return keep, nil, a.relay()
}

// flush writes what is pending for the client.
func (r *h1relay) flush() error {
	if len(r.back) == 0 {
		return nil
	}
	r.answered = r.answered || r.event.Status != 0
	_, err := r.in.conn.Write(r.back)
	r.back = r.back[:0]
	if err != nil {
		return errors.Join(errGone, err)
	}
	return nil
}

// answerBody relays the body of an answer.
type answerBody struct {
	r       *h1relay
	framing int            // towards the client
	stream  *redact.Stream // nil when no key went out
	decoded io.Reader      // what the body decodes to, nil when it passes as it is
	framed  bool           // it consists of messages
	chunks  chunkParser    // of the upstream
	left    int64          // of the upstream's Content-Length
	ended   bool
	pending []byte // of the undecoded body, what a decoder has not read
	trailer []byte // the upstream's trailer section
	section fieldLines

	messages redact.Messages
}

func (a *answerBody) relay() error {
	a.left = a.r.res.length
	var err error
	switch {
	case a.r.res.body == bodyNone:
	case a.decoded != nil:
		err = a.relayDecoded()
	case a.stream != nil:
		err = a.relayRedacted()
	case a.r.res.body == bodyChunked:
		err = a.relayChunks()
	default:
		err = a.relayPlain()
	}
	if err != nil {
		return err
	}
	return a.r.flush()
}

// next returns bytes of the body that are in the buffer, at most what is there,
// and reports the end. Nil without an end means that more must be read.
func (a *answerBody) next() (p []byte, err error) {
	up := &a.r.up
	switch a.r.res.body {
	case bodyLength:
		n := int(min(a.left, int64(len(up.bytes()))))
		p = up.bytes()[:n]
		a.left -= int64(n)
		a.ended = a.left == 0
	case bodyChunked:
		return a.nextChunk()
	default:
		p = up.bytes()
	}
	up.consume(len(p))
	a.r.event.Received += int64(len(p))
	return p, nil
}

// nextChunk returns the data of one chunk, or what is here of it.
func (a *answerBody) nextChunk() ([]byte, error) {
	up := &a.r.up
	for {
		event, n := a.chunks.next(up.bytes())
		part := up.bytes()[:n]
		up.consume(n)
		a.r.event.Received += int64(n)
		switch event {
		case chunkBad:
			return nil, errTruncated
		case chunkMore:
			return nil, nil
		case chunkData:
			return part, nil
		case chunkEnd:
			a.ended, a.trailer = true, trailerSection(part)
			return nil, nil
		}
	}
}

// fill reads more of the body. The upstream's end is the body's only where
// nothing else frames it.
func (a *answerBody) fill() error {
	err := a.r.up.fill(recordBuffer)
	if err == nil {
		return nil
	}
	if a.r.res.body == bodyClose && errors.Is(err, io.EOF) {
		a.ended = true
		return nil
	}
	return errTruncated
}

// relayPlain passes a body on that is not looked into.
func (a *answerBody) relayPlain() error {
	for {
		p, err := a.next()
		if err != nil {
			return err
		}
		if err := a.r.pass(p); err != nil || a.ended {
			return err
		}
		if err := a.fill(); err != nil {
			return err
		}
	}
}

// pass writes p, together with a pending head if that makes one small write.
func (r *h1relay) pass(p []byte) error {
	if len(r.back) > 0 && len(p) <= maxInline {
		r.back = append(r.back, p...)
		p = nil
	}
	if err := r.flush(); err != nil || len(p) == 0 {
		return err
	}
	if _, err := r.in.conn.Write(p); err != nil {
		return errors.Join(errGone, err)
	}
	return nil
}

// relayChunks passes chunks on as they come, one write a read.
func (a *answerBody) relayChunks() error {
	r := a.r
	for {
		out, n, done, ok := a.chunks.mirror(r.back, r.up.bytes(), &a.section)
		r.back = out
		r.up.consume(n)
		r.event.Received += int64(n)
		if !ok {
			return errTruncated
		}
		if err := r.flush(); err != nil || done {
			return err
		}
		if err := a.fill(); err != nil {
			return err
		}
	}
}

// relayRedacted passes a body on through the redactor.
func (a *answerBody) relayRedacted() error {
	for {
		p, err := a.next()
		if err != nil {
			return err
		}
		if !a.redact(p) {
			return errTruncated
		}
		switch {
		case a.ended:
			return a.finish()
		case len(p) > 0:
			continue // what one read brought goes out in one write
		}
		a.r.up.lend()
		if err := a.r.flush(); err != nil {
			return err
		}
		if err := a.fill(); err != nil {
			return err
		}
		if a.ended {
			return a.finish()
		}
	}
}

// redact frames what the redactor gives out for p, and reports whether p can be
// searched: not a message that is compressed and says not how.
func (a *answerBody) redact(p []byte) bool {
	r := a.r
	if len(p) == 0 {
		return true
	}
	if a.framed && !a.messages.Pass(p) {
		return false
	}
	if r.meter != nil {
		r.meter.Write(p)
	}
	a.stream.Widen(r.covering())
	if a.stream.Clean(p) {
		a.emit(p)
		return true
	}
	// Not a buffer of the exchange: it would wait for a client that does not read.
	buf := takeBuffer(recordBuffer)
	out := a.stream.Append(buf[:0], p)
	if a.framed && a.messages.Whole() {
		out = a.stream.Release(out)
	}
	a.emit(out)
	giveBuffer(buf)
	return true
}

func (a *answerBody) emit(p []byte) {
	if a.framing == bodyChunked {
		a.r.back = appendChunk(a.r.back, p)
		return
	}
	a.r.back = append(a.r.back, p...)
}

// finish ends the body: what the redactor held back, the last chunk, trailers.
func (a *answerBody) finish() error {
	r := a.r
	r.metered() // before the client has the end, and may ask again
	a.emit(a.stream.Flush(nil))
	if a.framing != bodyChunked {
		return nil
	}
	section := a.trailer
	if len(section) > 2 {
		section = r.clean(section)
	}
	var ok bool
	if r.back, ok = a.section.appendTrailer(r.back, section); !ok {
		return errTruncated
	}
	return nil
}
