// Package pace sets the Go scheduler to what a proxy does while requests follow one
// another closely: nearly nothing but wait, now for this side, now for that.
//
// Two habits of the scheduler cost more then than the requests do (perf, Go 1.26.11,
// 2026-11-23). A goroutine that becomes ready makes it wake a thread for the next
// processor (P) that idles, in the hope of more work; there is none, and on a machine
// whose processors are taken that thread displaces the very client that is waited for.
// And its monitor thread (sysmon) goes to sleep on a futex as soon as no P is in use,
// to be woken at the next system call: twice for a new connection, a quarter of what
// that costs. So while a burst lasts there are as many Ps as it keeps busy, mostly one,
// and one more that Run's goroutine holds on to in its sleep, which keeps the monitor
// awake: it then looks every 10 ms.
//
// Between bursts all is as Go made it, and nothing runs.
//
// Rejected: GOMAXPROCS=1 for ever, since a run may download on many connections, and
// the monitor would still be woken; GODEBUG=schedtrace, which keeps the monitor awake
// too, but also when nothing is under way, and prints.
package pace

import (
	"context"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// burst is how many beats within burstTime begin one: 800 a second. What is slower,
	// as a stream of a language model, is better off without.
	burst     = 16
	burstTime = 20 * time.Millisecond
	// nap is for how long the P is held at a time. From 10 ms on the monitor would
	// interrupt it (runtime/proc.go, retake, forcePreemptNS).
	nap = 8 * time.Millisecond
	// fewBeats in each of fewNaps naps end the burst.
	fewBeats = 4
	fewNaps  = 4
	// judgeNaps is how many naps lie between two looks at the load.
	judgeNaps = 6
)

// Pacer paces one process. It is safe for concurrent use.
type Pacer struct {
	beats atomic.Uint64
	mark  atomic.Int64 // when the last 16 beats were full, by clock
	awake atomic.Bool
	begin chan struct{}
	clock func() time.Duration
}

// New returns a Pacer that does nothing until Run.
func New() *Pacer {
	start := time.Now()
	return &Pacer{begin: make(chan struct{}, 1), clock: func() time.Duration { return time.Since(start) }}
}

// Beat says that something is under way. It takes some nanoseconds.
func (p *Pacer) Beat() {
	if p.beats.Add(1)%burst != 0 || p.awake.Load() {
		return
	}
	now := int64(p.clock())
	if last := p.mark.Swap(now); last == 0 || now-last > int64(burstTime) {
		return
	}
	if p.awake.CompareAndSwap(false, true) {
		p.begin <- struct{}{} // there is room: awake is cleared only after this was taken
	}
}

// Run paces until ctx is done. One at a time may run in a process.
func (p *Pacer) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.begin:
		}
		p.pace(ctx)
		p.awake.Store(false)
	}
}

// pace goes through one burst.
func (p *Pacer) pace(ctx context.Context) {
	g := governor{most: runtime.GOMAXPROCS(0), now: 1}
	defer runtime.GOMAXPROCS(g.most)
	end := ebb{seen: p.beats.Load()}
	for ctx.Err() == nil {
		if runtime.GOMAXPROCS(0) != g.now+1 {
			runtime.GOMAXPROCS(g.now + 1)
		}
		used, at, beats := processTime(), time.Now(), p.beats.Load()
		for range judgeNaps {
			hold(nap)
			if end.after(p.beats.Load()) {
				return
			}
		}
		g.judge(processTime()-used, time.Since(at), p.beats.Load()-beats)
	}
}

// ebb finds the end of a burst.
type ebb struct {
	seen uint64 // beats
	few  int    // naps in a row that had few
}

// after is told how many beats there were after each nap.
func (e *ebb) after(beats uint64) (over bool) {
	if e.few++; beats-e.seen >= fewBeats {
		e.few = 0
	}
	e.seen = beats
	return e.few == fewNaps
}

// hold sleeps without telling the scheduler, so that the P stays in use. A signal ends
// it early: the collector sends one when it wants every goroutine to stop.
func hold(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	_, _, _ = syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
	runtime.Gosched() // for the monitor, and for what was waiting for this very P
}

// processTime is what all threads of the process have used.
func processTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) // cannot fail for one's own
	return time.Duration(t.Nano())
}
