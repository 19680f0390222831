package sandbox

import (
	"testing"
	"time"

	"github.com/superserve/superserve/runtime/cgroup"
)

// TestYielder tells what a run with half a processor does, look by look.
func TestYielder(t *testing.T) {
	at, off := yieldLook/2, time.Duration(0) // its limit; nothing
	const (
		calm    = "calm"    // does nothing
		within  = "within"  // works within its limit
		reaches = "reaches" // is stopped by its limit
		starved = "starved" // is ready and gets nothing
		crowded = "crowded" // waits all the time and has half of its limit
	)
	words := map[string]cgroup.Load{
		calm:    {Used: off},
		within:  {Used: at / 2},
		reaches: {Used: at, Waited: yieldLook / 2, Throttled: 2},
		starved: {Used: at / 100, Waited: yieldLook},
		crowded: {Used: at / 2, Waited: yieldLook},
	}
	type step struct {
		what  string
		looks int
		want  bool // after the last
	}
	const second = int(time.Second / yieldLook)
	for _, tt := range []struct {
		name  string
		steps []step
	}{
		{"a run that has not reached its limit does not yield", []step{{calm, 9, false}, {within, 99, false}, {crowded, 99, false}}},
		{"nor one that gets nothing", []step{{starved, 99, false}}},
		{"who reaches it yields at once", []step{{within, 1, false}, {reaches, 1, true}, {reaches, 99, true}}},
		{"and for ten seconds after", []step{{reaches, 1, true}, {calm, 10*second - 1, true}, {calm, 1, false}}},
		{"from the last time", []step{{reaches, 1, true}, {within, 9 * second, true}, {reaches, 1, true}, {within, 9 * second, true}}},
		{"but not when the others leave nothing", []step{{reaches, 1, true}, {starved, second - 1, true}, {starved, 1, false}}},
		{"nor right after that", []step{{reaches, 1, true}, {starved, second, false}, {reaches, 2*second - 1, false}, {reaches, 1, true}}},
		{"a moment of nothing is none", []step{{reaches, 1, true}, {starved, second - 1, true}, {crowded, 1, true}, {starved, second - 1, true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			y, now, load := yielder{limit: 0.5}, time.Now(), cgroup.Load{Throttled: 7}
			y.next(now, load)
			for _, s := range tt.steps {
				got := false
				for range s.looks {
					w := words[s.what]
					load.Used, load.Waited, load.Throttled = load.Used+w.Used, load.Waited+w.Waited, load.Throttled+w.Throttled
					now = now.Add(yieldLook)
					got = y.next(now, load)
				}
				if got != s.want {
					t.Fatalf("after %d looks at %s: yields %v, want %v", s.looks, s.what, got, s.want)
				}
			}
		})
	}
}
