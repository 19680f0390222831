package web

import (
	"io"

	"golang.org/x/net/http2/hpack"

	"github.com/superserve/superserve/proxy/redact"
)

// maxCodedBytes is how much of a compressed answer waits for its decoder before
// the upstream's reader waits too.
const maxCodedBytes = 256 << 10

// h2decoder undoes the content coding of one answer, so that it can be searched
// for keys. A decoded body is longer than what the upstream sent, so its stream
// has windows of its own. Its fields are guarded by the relay's mutex.
type h2decoder struct {
	relay    *h2relay
	st       *h2stream
	coded    []byte // DATA that came and was not decoded yet
	out      []byte // what the redactor gave out; the decoder's goroutine's own
	trailers []hpack.HeaderField
	done     bool // the answer has ended, or the stream is gone
}

// decode starts to decode the answer of a stream. The mutex is held.
func (r *h2relay) decode(st *h2stream, c coding) {
	d := &h2decoder{relay: r, st: st}
	st.decode = d
	r.decoders.Add(1)
	go func() {
		defer r.decoders.Done()
		d.run(c)
		r.flushAll(r.client, r.upstream)
	}()
}

// feed takes DATA of the upstream, or the end when the stream's upstreamDone is
// set. The mutex is held and may be released meanwhile.
func (d *h2decoder) feed(r *h2relay, p []byte) {
	d.coded = append(d.coded, p...)
	r.held += int64(len(p))
	r.changed.Broadcast()
	for len(d.coded) > maxCodedBytes && !d.done && !r.over {
		r.changed.Wait()
	}
}

// stop ends the decoder of a stream that is gone. The mutex is held.
func (d *h2decoder) stop(r *h2relay) {
	d.done = true
	r.held -= int64(len(d.coded))
	d.coded = nil
	r.changed.Broadcast()
}

// Read gives the decoder what has come, and the upstream room for as much.
func (d *h2decoder) Read(p []byte) (int, error) {
	r := d.relay
	r.mu.Lock()
	for len(d.coded) == 0 && !d.st.upstreamDone && !d.done && !r.over {
		r.changed.Wait()
	}
	n := copy(p, d.coded)
	d.coded = d.coded[:copy(d.coded, d.coded[n:])]
	r.held -= int64(n)
	ended := d.done || r.over
	if n > 0 && !ended {
		if !d.st.upstreamDone {
			r.upstream.out.window(d.st.up, uint32(n))
		}
		r.regrant()
		r.changed.Broadcast()
	}
	r.mu.Unlock()
	switch {
	case ended:
		return 0, io.ErrUnexpectedEOF
	case n == 0:
		return 0, io.EOF
	}
	r.flush(r.upstream)
	return n, nil
}

func (d *h2decoder) run(c coding) {
	if d.st.capture != nil {
		d.runCaptured(c.list)
		return
	}
	body, err := c.open(d)
	if c, ok := body.(io.Closer); ok {
		defer c.Close() //nolint:errcheck // frees memory only
	}
	buf := make([]byte, maxFrameBytes)
	for err == nil {
		var n int
		n, err = body.Read(buf)
		if d.st.framing != framedNot && !d.st.messages.Pass(buf[:n]) {
			n, err = 0, redact.ErrCoding
		}
		if n > 0 && !d.send(buf[:n], false) {
			return
		}
		d.relay.flush(d.relay.upstream)
	}
	d.end(err)
}

// send relays decoded bytes, redacted, as the client's windows allow, and reports
// whether the stream is still there. last lets go of what the redactor holds.
func (d *h2decoder) send(p []byte, last bool) bool {
	r := d.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.regrant() // which waited while this stream starved
	for out := d.hide(p, last); len(out) > 0; {
		if !d.await() {
			return false
		}
		n := min(int64(len(out)), d.room())
		r.client.out.data(d.st.id, out[:n], false)
		r.unpacked = true
		r.client.window -= n
		r.client.control.sent(n)
		d.st.window -= n
		out = out[n:]
		r.mu.Unlock()
		r.flush(r.client)
		r.mu.Lock()
	}
	return !d.done && !r.over
}

// hide returns what the redactor gives out for p. It may be more than the
// windows let out at once, so it is not counted as held.
func (d *h2decoder) hide(p []byte, last bool) []byte {
	if d.st.meter.Write(p); last {
		d.st.meter.Done(d.st.sent, d.st.status)
	}
	d.relay.arm(d.st)
	if d.st.redact == nil {
		return p
	}
	d.out = d.st.redact.Append(d.out[:0], p)
	switch {
	case last:
		d.out = d.st.redact.Flush(d.out)
	case d.st.framing != framedNot && d.st.messages.Whole():
		d.out = d.st.redact.Release(d.out)
	}
	return d.out
}

func (d *h2decoder) room() int64 { return min(d.relay.client.window, d.st.window) }

// await waits for room. The mutex is held and released meanwhile.
func (d *h2decoder) await() bool {
	r := d.relay
	for d.room() <= 0 && !d.done && !r.over {
		r.starved++
		r.changed.Wait()
		r.starved--
	}
	return !d.done && !r.over
}

// end ends the answer: with its trailers, or an error when it does not decode.
func (d *h2decoder) end(err error) {
	if err == io.EOF && !d.send(nil, true) {
		return
	}
	r := d.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	if d.done || r.over {
		return
	}
	if err != io.EOF || !d.st.upstreamDone {
		d.st.reason = faultCoding.Reason
		_ = r.breakMessages(d.st, err)
		return
	}
	r.regrant()
	d.done = true
	r.endWithTrailers(d.st, d.trailers)
}
