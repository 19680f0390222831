package redact

import (
	"errors"
	"time"
)

// ErrCrowd means that as many answers with large windows, or messages, are being decoded as may be.
var ErrCrowd = errors.New("too many compressed answers at once")

const (
	// maxWide is how many decoders of br and zstd a process has at once: a window is up to 16 MiB, which an
	// upstream chooses, and 250 answers on one connection would take 4 GiB (measured 2026-11-23).
	maxWide = 8
	// wideWait is how long one more waits for its turn. Answers that end take milliseconds; streams that do not
	// are hardly ever coded so, the less as they are asked for plain.
	wideWait = 5 * time.Second
)

// wide has a token for each such decoder. It is the process's, as its memory is.
var wide = make(chan struct{}, maxWide)

// enterWide takes a token, or returns ErrCrowd when there is none in time.
func enterWide() error {
	select {
	case wide <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(wideWait)
	defer timer.Stop()
	select {
	case wide <- struct{}{}:
		return nil
	case <-timer.C:
		return ErrCrowd
	}
}

func leaveWide() { <-wide }
