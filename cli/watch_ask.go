package cli

import (
	"context"
	"sync"
	"time"

	"github.com/superserve/superserve/runtime/sandbox"
)

// watched is a question of a run that is asked here. ctx ends when it needs no answer any more.
type watched struct {
	ctx    context.Context
	prompt string
	word   chan string // takes one answer
}

// attend has a run's questions asked where it is watched, on a terminal and as text; elsewhere there are none. The caller
// answers one after the other, between the lines that it prints, until it calls stop.
func (sh *shell) attend(ctx context.Context, state, run string, asJSON bool) (questions <-chan watched, stop func()) {
	if asJSON || !isTerminal(sh.in) || !isTerminal(sh.err) {
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	all := make(chan watched)
	answer := func(ctx context.Context, prompt string) string {
		q := watched{ctx, prompt, make(chan string, 1)}
		select {
		case all <- q:
		case <-ctx.Done():
			return ""
		}
		select {
		case word := <-q.word:
			return word
		case <-ctx.Done():
			return ""
		}
	}
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			// An error is a run that has just begun or ended, of which the caller finds out, or another's.
			sandbox.Attend(ctx, state, run, answer)
			select {
			case <-ctx.Done():
			case <-time.After(followInterval):
			}
		}
	})
	return all, func() { cancel(); done.Wait() }
}
