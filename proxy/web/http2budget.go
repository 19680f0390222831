package web

import "time"

// Budgets of frames that cost us work and bring nothing forward. They are far
// above what clients do and far below what an attack needs; an empty one ends
// the connection with ENHANCE_YOUR_CALM.
const (
	// Streams that end by RST_STREAM, whoever sends it: rapid reset
	// (CVE-2023-44487) and "made you reset" (CVE-2025-8671), where an
	// attacker's frames make the server reset.
	resetBurst = 512
	resetRate  = 64 // a second

	// PING, SETTINGS, PRIORITY, WINDOW_UPDATE, unknown and empty frames of one
	// side (CVE-2019-9512 to 9518). What we send to that side pays for its
	// WINDOW_UPDATEs: Go's clients and servers send two for every 4 KiB that they
	// read, so a DATA frame pays for two and for one more each updateBytes.
	controlBurst = 2048
	controlRate  = 256
	updateBytes  = 1 << 10
)

// bucket is a token bucket. It is not safe for concurrent use.
type bucket struct {
	burst, rate, tokens int64
	filled              time.Time
}

// take spends one token and reports whether there was one. The clock is read
// only when the bucket looks empty.
func (b *bucket) take() bool {
	if b.tokens == 0 {
		b.fill(time.Now())
	}
	if b.tokens == 0 {
		return false
	}
	b.tokens--
	return true
}

func (b *bucket) fill(now time.Time) {
	if b.filled.IsZero() {
		b.filled = now.Add(-time.Second)
	}
	earned := int64(now.Sub(b.filled)) * b.rate / int64(time.Second)
	if earned <= 0 {
		return
	}
	b.filled = now
	b.earn(earned)
}

func (b *bucket) earn(n int64) { b.tokens = min(b.tokens+n, b.burst) }

// sent pays for the WINDOW_UPDATEs that n bytes of DATA bring back.
func (b *bucket) sent(n int64) { b.earn(2 + n/updateBytes) }
