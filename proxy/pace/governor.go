package pace

import "time"

const (
	// fullShare of all processors, in percent, for fullTicks doubles them.
	fullShare = 95
	fullTicks = 6
	// gain is by how much more, in percent, a doubling must bring within gainTicks.
	// Where it brings less the machine has no processor to spare, or the work cannot be
	// shared; the next try is after patience ticks.
	gain      = 15
	gainTicks = 6
	patience  = 100
	// halfShare of all processors, in percent, for halfTicks halves them.
	halfShare = 45
	halfTicks = 20
)

// governor decides how many processors a burst gets. It is not safe for concurrent use.
type governor struct {
	most, now  int // processors
	full, half int // ticks in a row
	wait       int // ticks until the next try
	before     int // processors before the try that is under way; 0: none is
	ticks      int // of that try
	was, is    rate
}

// rate is beats in a time.
type rate struct {
	beats uint64
	time  time.Duration
}

// judge sets now, every 50 ms or so, by the processor time that was used meanwhile and
// by what was done.
func (g *governor) judge(used, elapsed time.Duration, beats uint64) {
	if elapsed <= 0 {
		return
	}
	if g.before > 0 {
		g.try(rate{beats, elapsed})
		return
	}
	share := int(100 * used / elapsed) // of one processor
	g.wait = max(g.wait-1, 0)
	if g.full = next(share > fullShare*g.now && g.wait == 0, g.full); g.full == 1 {
		g.was = rate{}
	}
	g.was.beats, g.was.time = g.was.beats+beats, g.was.time+elapsed
	g.half = next(share < halfShare*g.now, g.half)
	switch {
	case g.full == fullTicks && g.now < g.most:
		g.before, g.ticks, g.is = g.now, 0, rate{}
		g.now, g.full = min(2*g.now, g.most), 0
	case g.half == halfTicks:
		g.now, g.half = max(g.now/2, 1), 0
	}
}

// try sees what more processors bring.
func (g *governor) try(r rate) {
	g.is.beats, g.is.time = g.is.beats+r.beats, g.is.time+r.time
	if g.ticks++; g.ticks < gainTicks {
		return
	}
	// is.beats/is.time against was.beats/was.time.
	if float64(g.is.beats)*float64(g.was.time)*100 < float64(g.was.beats)*float64(g.is.time)*(100+gain) {
		g.now, g.wait = g.before, patience
	}
	g.before, g.half = 0, 0
}

// next counts what happens in a row.
func next(again bool, n int) int {
	if again {
		return n + 1
	}
	return 0
}
