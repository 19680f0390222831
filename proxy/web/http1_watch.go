package web

import (
	"errors"
	"os"
	"sync"
	"time"
)

// watchAfter is how long an answer may take before the client is watched. Most
// answers begin earlier, and a reader a request would cost them a tenth.
const watchAfter = 250 * time.Millisecond

// watch notices that the client went away while its answer is awaited, so that
// an upstream does not go on working for nobody. It reads ahead, into the
// client's buffer, which the relay must not touch between arm and disarm.
type watch struct {
	r *h1relay

	mu      sync.Mutex
	timer   *time.Timer
	armed   bool
	reading chan struct{} // closed when the reader ends; nil when there is none
	gone    bool
}

func (w *watch) arm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed, w.gone = true, false
	if w.timer == nil {
		w.timer = time.AfterFunc(watchAfter, w.fire)
		return
	}
	w.timer.Reset(watchAfter)
}

// fire runs in the timer's goroutine.
func (w *watch) fire() {
	w.mu.Lock()
	if !w.armed || w.reading != nil || !w.r.in.empty() {
		w.mu.Unlock()
		return // a pipelined request hides whether the client is there
	}
	done := make(chan struct{})
	w.reading = done
	w.mu.Unlock()
	defer close(done)
	err := w.r.in.fill(smallBuffer)
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	w.mu.Lock()
	w.gone = true
	w.mu.Unlock()
	rawConn(w.r.up.conn).Close() //nolint:errcheck // wakes who awaits the answer
}

// disarm ends the watch and reports whether the client went away.
func (w *watch) disarm() (gone bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.armed {
		return w.gone
	}
	w.armed = false
	w.timer.Stop()
	if reading := w.reading; reading != nil {
		w.mu.Unlock()
		w.r.in.conn.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // ends the read either way
		<-reading
		w.r.in.conn.SetReadDeadline(time.Time{}) //nolint:errcheck // the next read tells
		w.mu.Lock()
		w.reading = nil
	}
	return w.gone
}
