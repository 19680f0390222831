//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"
)

const paceHost, abusedHost = "pace.test", "abused.test"

// TestNeighbours runs an agent that asks for one small answer after the other beside one that keeps its processors
// and its proxy as busy as it can, within limits: how much does the first one's p99 rise? Turns with the
// attack and without take each other's place, as the machine has other things to do too. NEIGHBOURS says how many
// (`make neighbours`: 20); with fewer than that the ratio is printed, not judged.
func TestNeighbours(t *testing.T) {
	turns := times(t, "NEIGHBOURS", 1)
	a := newArena(t, "secrets: [OPENAI_API_KEY]\n")
	a.extra[paceHost] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	other := newUpstream(t, abusedHost)
	other.extra[abusedHost] = a.extra[paceHost]
	a.set("probe", "OPENAI_API_KEY", openaiKey, "--host", paceHost, "--host", abusedHost)
	neighbour := a.beside(t, a.upstream, paceHost, "pace")
	attacker := a.beside(t, other, abusedHost, "abuse", "--cpus", "0.5", "--memory", "256M", "--pids", "200")
	asked := 200
	if turns >= 20 {
		asked = 1000
	}
	ask := func() (p50, p99 time.Duration) {
		neighbour.tell(strconv.Itoa(asked))
		line, _ := neighbour.next()
		if _, err := fmt.Sscan(line, &p50, &p99); err != nil {
			t.Fatalf("the neighbour said %q\nstderr: %s", line, neighbour.stderr)
		}
		return p50, p99
	}
	attack := func(word string) {
		attacker.tell(word)
		attacker.expect(word)
	}
	ask() // the first connection, and warm caches
	var quiet, loud, ratios []time.Duration
	for range turns {
		_, before := ask()
		attack("on")
		_, during := ask()
		attack("off")
		quiet, loud = append(quiet, before), append(loud, during)
		ratios = append(ratios, 1000*during/before)
	}
	slices.Sort(ratios)
	ratio := float64(ratios[len(ratios)/2]) / 1000
	fmt.Printf("neighbours: p99 %v alone, %v beside an attack: %.2fx, median of %d turns\n", middle(quiet), middle(loud), ratio, turns)
	if turns >= 20 && ratio > 1.10 {
		t.Errorf("an attack makes a neighbour's p99 %.2f times as long, want at most 1.10", ratio)
	}
}

func middle(all []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(all))[len(all)/2].Round(time.Microsecond)
}

// beside starts a run of the probe against an upstream on this machine.
func (a *arena) beside(t *testing.T, u *upstream, host, command string, flags ...string) *captive {
	t.Helper()
	flags = append(flags, "--upstream-ca", u.caFile, "--resolve", fmt.Sprintf("%s:443:127.0.0.1:%d", host, u.port))
	in := *a
	in.host = nil
	c := in.start(t, flags, command, host)
	c.expect("ready")
	return c
}
