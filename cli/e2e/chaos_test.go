//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// times reads how often something is to happen, ordinarily a few times, from the environment.
func times(t testing.TB, name string, ordinary int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return ordinary
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number", name, text)
	}
	return n
}

// TestChaos breaks runs, each in a way and at a moment that chance picks: while it starts, while its stream is
// idle and while it flows. CHAOS says how often (`make chaos`: 1,000), CHAOS_SEED repeats one.
func TestChaos(t *testing.T) {
	n, seed := times(t, "CHAOS", 20), times(t, "CHAOS_SEED", int(rand.Uint32())+1)
	dice := rand.New(rand.NewPCG(uint64(seed), 0))
	f := newFaulty(t, false)
	counts := map[string]int{}
	var cuts, ends []time.Duration
	began := time.Now()
	for i := range n {
		what := faults[dice.IntN(len(faults))]
		f.busy.Store(dice.IntN(2) == 0)
		if dice.IntN(4) == 0 {
			what.name = "kill of the supervisor while it starts"
			f.killStart(t, time.Duration(dice.IntN(500))*time.Millisecond)
		} else if took := f.suffer(t, what); !what.goesOn {
			cuts, ends = append(cuts, took.cut), append(ends, took.end)
		}
		f.wantNothingLeft(t)
		counts[what.name]++
		if t.Failed() {
			t.Fatalf("iteration %d of seed %d: %s", i+1, seed, what.name)
		}
		if (i+1)%50 == 0 {
			fmt.Printf("chaos: %d of %d, %v\n", i+1, n, time.Since(began).Round(time.Second))
		}
	}
	f.wantNoForgery(t)
	found, heard := f.capture.packets(t)
	f.capture.wantNone(t, "on the host")
	fmt.Printf("chaos: %d iterations in %v, seed %d: %d foreign packets of %d, nothing left\n", n, time.Since(began).Round(time.Second), seed, len(found), heard)
	fmt.Printf("chaos: stream cut after p50 %v, p99 %v; sandbox ended after p50 %v, p99 %v\n",
		quantile(cuts, 50), quantile(cuts, 99), quantile(ends, 50), quantile(ends, 99))
	for name, count := range counts {
		t.Logf("%4d × %s", count, name)
	}
}

// killStart kills a supervisor some time after it began, and lets the next start clean up.
func (f *faulty) killStart(t testing.TB, after time.Duration) {
	t.Helper()
	c := f.start(t, f.flags, "stream", streamHost)
	time.Sleep(after)
	c.cmd.Process.Signal(syscall.SIGKILL)
	<-c.ended
	f.sweep(t)
}

// quantile is the p-th percentile of durations.
func quantile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)].Round(time.Millisecond)
}
