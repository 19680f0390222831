package pace

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPacer(t *testing.T) {
	was := runtime.GOMAXPROCS(4)
	t.Cleanup(func() { runtime.GOMAXPROCS(was) })

	t.Run("it leaves one processor and its own in a burst, and all after it", func(t *testing.T) {
		p, now := started(t)
		for range 3 {
			p.untilPaced(now)
			for p.awake.Load() {
				runtime.Gosched()
			}
			if n := runtime.GOMAXPROCS(0); n != 4 {
				t.Fatalf("%d processors after the burst, want 4", n)
			}
		}
	})

	t.Run("it lets the collector stop the process", func(t *testing.T) {
		p, now := started(t)
		p.begins(now)
		for start := time.Now(); p.awake.Load() && time.Since(start) < time.Second; {
			runtime.GC() // stops the world twice
		}
	})

	t.Run("it sleeps through a slow stream", func(t *testing.T) {
		p, now := started(t)
		for range 100 {
			p.beat(burst)
			now.Add(int64(burstTime) + 1)
		}
		if p.awake.Load() {
			t.Errorf("awake after %d beats in %v", burst, burstTime)
		}
	})

	t.Run("it ends in a burst, too", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p, now := New(), clock()
		p.clock = func() time.Duration { return time.Duration(now.Load()) }
		var wg sync.WaitGroup
		wg.Go(func() { p.Run(ctx) })
		p.untilPaced(now)
		cancel()
		wg.Wait()
		if n := runtime.GOMAXPROCS(0); n != 4 {
			t.Errorf("%d processors afterwards, want 4", n)
		}
	})
}

func started(t *testing.T) (*Pacer, *atomic.Int64) {
	p, now := New(), clock()
	p.clock = func() time.Duration { return time.Duration(now.Load()) }
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return p, now
}

func clock() *atomic.Int64 {
	now := new(atomic.Int64)
	now.Store(int64(time.Hour))
	return now
}

// untilPaced begins bursts until one was seen at work: on a slow machine one may be
// over before we look.
func (p *Pacer) untilPaced(now *atomic.Int64) {
	for runtime.GOMAXPROCS(0) != 2 {
		if !p.awake.Load() {
			p.begins(now)
		}
		runtime.Gosched()
	}
}

// begins a burst.
func (p *Pacer) begins(now *atomic.Int64) {
	p.mark.Store(now.Load())
	p.beat(burst)
}

func (p *Pacer) beat(n int) {
	for range n {
		p.Beat()
	}
}

func TestEbb(t *testing.T) {
	for name, test := range map[string]struct {
		beats []uint64 // in each nap
		want  int      // naps until it is over; 0 for not at all
	}{
		"it goes on while there are beats":  {[]uint64{fewBeats, fewBeats, 100, fewBeats, fewBeats, fewBeats}, 0},
		"it bears a pause":                  {[]uint64{0, 0, 0, fewBeats, 0, 0, 0}, 0},
		"it ends when they become few":      {[]uint64{100, 0, fewBeats - 1, 0, fewBeats - 1}, 5},
		"it ends when there were none ever": {[]uint64{0, 0, 0, 0}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			e, total, got := ebb{seen: 7}, uint64(7), 0
			for i, n := range test.beats {
				if total += n; e.after(total) && got == 0 {
					got = i + 1
				}
			}
			if got != test.want {
				t.Errorf("over after %d naps of %v beats, want %d", got, test.beats, test.want)
			}
		})
	}
}

func TestGovernor(t *testing.T) {
	type tick struct{ percent, beats, times, want int }
	const full, tried = fullTicks, gainTicks
	for name, test := range map[string]struct {
		most  int
		ticks []tick
	}{
		"it stays at one for what one can do": {8, []tick{{90, 100, 100, 1}}},
		"it ignores a moment":                 {8, []tick{{100, 100, full - 1, 1}, {80, 100, 1, 1}, {100, 100, full - 1, 1}}},
		"it doubles while that brings more": {8, []tick{
			{99, 100, full, 2}, {190, 190, tried, 2}, {199, 190, full, 4}, {390, 350, tried, 4}, {399, 350, full, 8}}},
		"it takes no more than there are":         {3, []tick{{99, 100, full, 2}, {190, 190, tried, 2}, {199, 190, full, 3}, {299, 280, 100, 3}}},
		"it goes back when that brings nothing":   {8, []tick{{99, 100, full, 2}, {150, 105, tried - 1, 2}, {150, 105, 1, 1}}},
		"it tries again, but not soon":            {8, []tick{{99, 100, full, 2}, {150, 90, tried, 1}, {99, 100, patience - 1, 1}, {99, 100, full, 2}}},
		"it compares with the time just before":   {8, []tick{{60, 1000, 50, 1}, {99, 100, full, 2}, {190, 190, tried, 2}, {150, 190, 10, 2}}},
		"it keeps what is half used":              {4, []tick{{99, 100, full, 2}, {150, 150, 100, 2}}},
		"it halves after a second of less":        {4, []tick{{99, 100, full, 2}, {150, 150, tried, 2}, {80, 80, halfTicks - 1, 2}, {80, 80, 1, 1}}},
		"it halves not below one":                 {4, []tick{{10, 1, 100, 1}}},
		"it counts anew after a busier moment":    {4, []tick{{99, 100, full, 2}, {150, 150, tried, 2}, {80, 80, halfTicks - 1, 2}, {150, 150, 1, 2}, {80, 80, halfTicks - 1, 2}}},
		"it does not try where there is only one": {1, []tick{{100, 100, 100, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			g := governor{most: test.most, now: 1}
			for i, tick := range test.ticks {
				for range tick.times {
					g.judge(time.Duration(tick.percent)*time.Millisecond, 100*time.Millisecond, uint64(tick.beats))
				}
				if g.now != tick.want {
					t.Fatalf("step %d: %d processors after %d ticks of %d %% and %d beats, want %d", i, g.now, tick.times, tick.percent, tick.beats, tick.want)
				}
			}
		})
	}
}

func TestProcessTime(t *testing.T) {
	for before := processTime(); processTime() == before; {
		// It grows by being asked.
	}
}
