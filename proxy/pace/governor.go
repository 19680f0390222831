package pace

import "time"

const (
	// fullShare of all processors, in percent, for fullTicks doubles them.
	fullShare = 90
	fullTicks = 3
	// halfShare of all processors, in percent, for halfTicks halves them.
	halfShare = 35
	halfTicks = 20
)

// governor decides how many processors a burst gets. It is not safe for concurrent use.
type governor struct {
	most, now  int // processors
	full, half int // calls of judge in a row
}

// judge sets now by the processor time that was used in a time, and is called every 50
// ms or so.
func (g *governor) judge(used, elapsed time.Duration) {
	if elapsed <= 0 {
		return
	}
	share := int(100 * used / elapsed) // of one processor
	g.full, g.half = next(share > fullShare*g.now, g.full), next(share < halfShare*g.now, g.half)
	switch {
	case g.full == fullTicks:
		g.now, g.full = min(2*g.now, g.most), 0
	case g.half == halfTicks:
		g.now, g.half = max(g.now/2, 1), 0
	}
}

// next counts what happens in a row.
func next(again bool, n int) int {
	if again {
		return n + 1
	}
	return 0
}
