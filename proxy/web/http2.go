package web

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/proxy/swap"
)

const (
	// h2HeadTimeout bounds the client's preface and each header block from its
	// first frame to its last.
	h2HeadTimeout = 10 * time.Second
	// answerTime bounds a connection on which every request is refused.
	answerTime = 60 * time.Second
	// lingerTime and lingerBytes bound how long a peer that was told GOAWAY may
	// go on sending.
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 1 << 20
	// maxStreams bounds the streams that a client may have open. An upstream's
	// smaller SETTINGS_MAX_CONCURRENT_STREAMS is relayed.
	maxStreams = 256
)

var (
	errPreface  = errors.New("the client's preface is not HTTP/2's")
	errGreeting = errors.New("the first frame is not SETTINGS")
	errPush     = errors.New("a push that nobody asked for")
	errIdle     = errors.New("a frame for a stream that was not opened")
	errClosed   = errors.New("a frame for a stream that was closed")
	errFlood    = errors.New("too many frames that bring nothing forward")
	errResets   = errors.New("too many streams reset")
	errWindow   = errors.New("more DATA than the window allows")
	errOverflow = errors.New("a window beyond 2^31-1")
)

// h2relay relays frames between one client connection and one upstream
// connection. Stream ids are the client's on both sides; those of refused
// streams are skipped upstream (RFC 9113 §5.1.1 lets a client skip ids).
//
// It holds no bodies: the windows that a client sees are the upstream's and the
// other way round, as WINDOW_UPDATE and SETTINGS_INITIAL_WINDOW_SIZE pass
// through, so nobody may send what the receiver has no room for. The relay
// counts along, returns what it drops itself (padding, DATA of refused streams),
// and holds only what a redactor holds back. Windows of its own were rejected:
// they need a buffer a stream, and move each cancellation and each stall one
// hop away from where it happened.
//
// One goroutine reads each connection, and writes the other one when its own
// has no complete frame left, so that frames that arrive together leave in one
// TLS record and a single one leaves at once.
type h2relay struct {
	client, upstream *h2side // upstream is nil when every stream is refused
	judge            h2judge
	authority        string // of every request, in canonical form

	// owned by the client's reader:
	fields []swap.Field
	arena  []byte

	mu       sync.Mutex
	changed  sync.Cond // a window, a queue or a decoder's input changed, or over
	streams  map[uint32]*h2stream
	spare    []*h2stream
	recent   [resetBurst]uint32 // ids that were reset last; frames for them may be under way
	recentAt int
	resets   bucket
	held     int64                // bytes of the upstream's DATA that wait in redactors and decoders
	byUp     map[uint32]*h2stream // by the upstream's ids, nil while they are the client's
	lastUp   uint32
	bodies   int           // bytes of requests' contents that are held or queued
	settled  int           // of these, what shared knows of
	shared   *atomic.Int64 // the run's; nil counts for nobody
	queues   int           // streams with a queue
	starved  int           // decoders that wait for the client's window
	unpacked bool          // a decoder sent DATA since the client's last ping
	pinged   bool          // a ping of the client's was relayed since the upstream's last answer
	set      *redact.Set
	signed   []byte        // scratch of sendSigned
	hidden   []byte        // scratch of hide
	events   []audit.Event // of streams that are over, to be recorded
	over     bool          // a connection has ended
	decoders sync.WaitGroup
}

// h2judge is what a relay asks of its session. The client's reader calls all of
// it; event and record are called from other goroutines too.
type h2judge interface {
	// owns reports whether authority is the name that was connected (R1).
	owns(authority string) bool
	// permit judges a request's method and path.
	permit(method, path string) *swap.Refusal
	// wantsBody reports whether the content of a request with these fields is to be
	// judged too.
	wantsBody(fields []swap.Field) bool
	// credentials decides on a request (R2, R3, R4).
	credentials(ctx context.Context, q swap.Request) (*swap.Plan, *swap.Refusal)
	// admit asks the budget for a request that carries keys, or refuses it.
	admit(ctx context.Context, st *h2stream, plan *swap.Plan) *swap.Refusal
	// use records that the plan's keys are about to be sent. An error refuses it.
	use(st *h2stream, plan *swap.Plan) *swap.Refusal
	// cover returns the set widened by the plan's keys.
	cover(set *redact.Set, plan *swap.Plan) *redact.Set
	// latest returns the set widened by what other connections sent, where a key may
	// come back.
	latest(set *redact.Set) *redact.Set
	// searched reports whether a key may come back.
	searched(set *redact.Set) bool
	// event describes a stream that is over.
	event(st *h2stream) audit.Event
	// record keeps events. An error ends the relay.
	record(events []audit.Event) error
}

func newRelay(client, upstream net.Conn, judge h2judge) *h2relay {
	r := &h2relay{client: newSide(client), judge: judge, streams: make(map[uint32]*h2stream)}
	if upstream != nil {
		r.upstream = newSide(upstream)
	}
	r.changed.L = &r.mu
	r.resets = bucket{burst: resetBurst, rate: resetRate, tokens: resetBurst}
	return r
}

// run relays until either connection ends, closes both, and returns why: nil
// when the client or the upstream closed between frames.
func (r *h2relay) run(ctx context.Context) error {
	fromUpstream := make(chan error, 1)
	if r.upstream == nil {
		fromUpstream <- nil
	} else {
		go func() { fromUpstream <- r.readUpstream() }()
	}
	err := r.readClient(ctx)
	if r.upstream != nil {
		_ = r.upstream.conn.Close()
	}
	if upErr := <-fromUpstream; err == nil {
		err = upErr
	}
	_ = r.client.conn.Close()
	r.decoders.Wait()
	r.closeStreams()
	if recErr := r.report(); err == nil {
		err = recErr
	}
	return err
}

// readClient is the client's reader. It returns when its connection, or the
// relay, is over.
func (r *h2relay) readClient(ctx context.Context) error {
	err := r.greetClient()
	if err == nil {
		err = r.frames(r.client, r.upstream, func(f http2.Frame) error { return r.clientFrame(ctx, f) })
	}
	return r.endClient(err)
}

// readUpstream is the upstream's reader. It flushes and closes the client when
// the upstream has ended.
func (r *h2relay) readUpstream() error {
	return r.endUpstream(r.frames(r.upstream, r.client, r.upstreamFrame))
}

// frames gives relay each frame that one side sends, until something ends it.
func (r *h2relay) frames(from, to *h2side, relay func(http2.Frame) error) error {
	for {
		f, err := from.read()
		if err != nil {
			err = r.streamFault(from, err)
		} else {
			err = relay(f)
		}
		if err == nil && (!from.more() || r.queued() > maxQueuedBytes) {
			r.flushAll(to, from)
			err = r.report()
		}
		if err != nil {
			return err
		}
	}
}

// endClient says GOAWAY for a fault of the client and ends the relay. When the
// upstream ended first, the client gets time to read what was written last.
func (r *h2relay) endClient(err error) error {
	r.mu.Lock()
	ended := r.over
	r.over = true
	r.changed.Broadcast()
	var f *connFault
	if errors.As(err, &f) {
		r.introduce()
		r.client.out.goAway(r.client.lastID, f.code, f.cause.Error())
	}
	r.mu.Unlock()
	switch {
	case f != nil:
		_ = r.client.conn.SetWriteDeadline(time.Now().Add(lingerTime))
		r.silence(r.client)
		r.client.linger()
	case ended:
		return nil // the upstream's reader knows why
	case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil
	}
	return err
}

// endUpstream ends the relay after its upstream. A fault of the upstream is a
// 502 for the streams that have no answer yet; a connection that just ended is
// passed on as that.
func (r *h2relay) endUpstream(err error) error {
	r.mu.Lock()
	ended := r.over
	r.over = true
	r.changed.Broadcast()
	var f *connFault
	if errors.As(err, &f) {
		r.failStreams()
		r.client.out.goAway(r.client.lastID, http2.ErrCodeInternal, "the upstream broke HTTP/2")
		if r.upstream.told {
			r.upstream.out.goAway(0, f.code, "")
		}
	}
	r.mu.Unlock()
	if ended {
		return nil // the client's reader knows why
	}
	if f != nil {
		_ = r.upstream.conn.SetWriteDeadline(time.Now().Add(lingerTime))
		r.flush(r.upstream)
	}
	r.silence(r.client)
	// The client's reader wakes up with the client's own end or this deadline.
	if half, ok := r.client.conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_ = r.client.conn.SetReadDeadline(time.Now().Add(lingerTime))
	} else {
		_ = r.client.conn.Close()
	}
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// report records the streams that are over. It comes after the flush, so that no
// answer waits for it.
func (r *h2relay) report() error {
	r.mu.Lock()
	r.settle()
	events := r.events
	if len(events) > 0 {
		r.events = nil
	}
	r.mu.Unlock()
	if len(events) == 0 {
		return nil
	}
	err := r.judge.record(events)
	clear(events)
	r.mu.Lock()
	if r.events == nil {
		r.events = events[:0]
	}
	r.mu.Unlock()
	return err
}

// flushAll writes what waits for both sides, first where the reader's frames go.
func (r *h2relay) flushAll(first, second *h2side) {
	for _, s := range [2]*h2side{first, second} {
		if s != nil {
			r.flush(s)
		}
	}
}

// queued returns the bytes that wait for the side on which more waits.
func (r *h2relay) queued() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.client.out.buf)
	if r.upstream != nil {
		n = max(n, len(r.upstream.out.buf))
	}
	return n
}

// streamFault turns a framer's stream error into RST_STREAM on both sides. All
// other errors come back.
func (r *h2relay) streamFault(from *h2side, err error) error {
	var se http2.StreamError
	if !errors.As(err, &se) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.streams[se.StreamID]
	if from == r.upstream {
		st = r.serving(se.StreamID)
	}
	if st == nil {
		if from == r.client && se.StreamID > from.lastID {
			return fault(se.Code, errIdle)
		}
		return r.countControl(from)
	}
	return r.cancel(st, se.Code)
}
