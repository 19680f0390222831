package proxytest

import (
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy/audit"
)

// Recorder keeps events in memory. It is safe for concurrent use.
type Recorder struct {
	mu     sync.Mutex
	events []audit.Event
	more   chan struct{} // closed and replaced by each event
	err    error
}

// NewRecorder returns an empty Recorder.
func NewRecorder() *Recorder { return &Recorder{more: make(chan struct{})} }

// Fail makes every further Record return err.
func (r *Recorder) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// Record keeps e.
func (r *Recorder) Record(e audit.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	r.events = append(r.events, e)
	close(r.more)
	r.more = make(chan struct{})
	return nil
}

// Wait returns the events as soon as there are n of them.
func (r *Recorder) Wait(t testing.TB, n int) []audit.Event {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		r.mu.Lock()
		events, more := append([]audit.Event(nil), r.events...), r.more
		r.mu.Unlock()
		if len(events) >= n {
			return events
		}
		select {
		case <-more:
		case <-timeout:
			t.Fatalf("%d events, want %d: %+v", len(events), n, events)
		}
	}
}
