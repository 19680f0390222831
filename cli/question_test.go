package cli

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

// TestQuestionsAreFew: what an agent connects to neither asks twice, nor more than eight times, nor holds up more
// connections than a few; the answer is for all that wait.
func TestQuestionsAreFew(t *testing.T) {
	var told []sandbox.Notice
	q := &questions{tell: func(n sandbox.Notice) bool { told = append(told, n); return true }}
	gone, cancel := context.WithCancel(t.Context())
	cancel() // nobody waits for an answer
	for range 3 {
		for i := range 10_000 {
			q.network(gone, api.Host(fmt.Sprintf("n%d.example.com", i)), 443)
		}
	}
	if len(told) != maxQuestions {
		t.Errorf("%d questions, want %d", len(told), maxQuestions)
	}
	if q.secret(gone, "TOKEN", "api.example.com", 443); len(told) != maxQuestions+1 {
		t.Error("questions about the network leave none for secrets")
	}
	for _, n := range told {
		q.answer(n.Ask, sandbox.Allowed)
		q.answer(n.Ask, sandbox.Refused) // which comes too late
	}
	if !q.secret(t.Context(), "TOKEN", "api.example.com", 443) {
		t.Error("the answer is lost")
	}
	about := sandbox.Question{Host: "n0.example.com", Port: 443}
	if !q.ask(t.Context(), about) {
		t.Error("the answer is lost")
	}
	q.waiting = maxWaiting
	if q.ask(t.Context(), about) {
		t.Error("more wait than may")
	}
}

// TestUnaskedIsAskedAgain: a question that nobody could be asked is asked the next time, and does not count.
func TestUnaskedIsAskedAgain(t *testing.T) {
	asked := make(chan uint64, 1)
	q := &questions{tell: func(n sandbox.Notice) bool { asked <- n.Ask; return true }}
	var answers sync.WaitGroup
	for i, reply := range []sandbox.Reply{sandbox.Unasked, sandbox.Unasked, sandbox.Allowed} {
		answers.Go(func() { q.answer(<-asked, reply) })
		if got := q.ask(t.Context(), sandbox.Question{Host: "api.example.com", Port: 443}); got != (reply == sandbox.Allowed) {
			t.Errorf("answer %d: %v", i, got)
		}
		answers.Wait()
	}
	q.tell = func(sandbox.Notice) bool { return false }
	if q.ask(t.Context(), sandbox.Question{Host: "slow.example.com", Port: 443}) || len(q.all) != 1 {
		t.Error("a question that was not told waits")
	}
}

// TestNoticesWaitForAnAnswer: no line of ours stands between a question and its answer.
func TestNoticesWaitForAnAnswer(t *testing.T) {
	var said []string
	o := new(outlet)
	o.say = func(text string) {
		if !o.later(text) {
			said = append(said, text)
		}
	}
	o.say("before")
	release := o.hold()
	for range maxHeld + 10 {
		o.say("meanwhile")
	}
	if len(said) != 1 {
		t.Errorf("%d lines stand in the question", len(said)-1)
	}
	release()
	o.say("after")
	if len(said) != maxHeld+2 || said[len(said)-1] != "after" {
		t.Errorf("%d lines, the last %q", len(said), said[len(said)-1])
	}
}

// TestKeptAllowed: what is always allowed is kept by name, once, and widens only a network that has a list.
func TestKeptAllowed(t *testing.T) {
	state := t.TempDir()
	add := func(target string) {
		t.Helper()
		if err := keepAllowed(state, "plain", func(kept []string) ([]string, error) { return append(kept, target), nil }); err != nil {
			t.Fatal(err)
		}
	}
	add("b.example.com:443")
	add("a.example.com:443")
	add("b.example.com:443")
	kept, err := keptAllowed(state, "plain")
	if want := []string{"a.example.com:443", "b.example.com:443"}; err != nil || !cmp.Equal(kept, want) {
		t.Fatalf("%v, %v; want %v", kept, err, want)
	}
	if other, err := keptAllowed(state, "other"); err != nil || other != nil {
		t.Errorf("another agent has %v, %v", other, err)
	}
	if _, err := keptAllowed(state, "../plain"); err == nil {
		t.Error("a path is no agent")
	}
	for name, c := range map[string]struct{ n, want sandbox.Network }{
		"a list":              {sandbox.Network{Allow: []string{"x.com"}}, sandbox.Network{Allow: append([]string{"x.com"}, kept...)}},
		"an empty list":       {sandbox.Network{Allow: []string{}, Deny: []string{"a.example.com"}}, sandbox.Network{Allow: kept, Deny: []string{"a.example.com"}}},
		"the secrets' hosts":  {sandbox.Network{Mode: "bound"}, sandbox.Network{Mode: "bound", Allow: kept}},
		"the public internet": {sandbox.Network{}, sandbox.Network{}},
		"no network":          {sandbox.Network{Mode: "none", Allow: []string{"x.com"}}, sandbox.Network{Mode: "none", Allow: []string{"x.com"}}},
	} {
		if got := withAllowed(c.n, kept); !cmp.Equal(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	if err := keepAllowed(state, "plain", func([]string) ([]string, error) { return make([]string, maxAllowed+1), nil }); err != nil {
		t.Errorf("the same thing many times: %v", err)
	}
	if err := keepAllowed(state, "plain", func([]string) ([]string, error) {
		many := make([]string, maxAllowed+1)
		for i := range many {
			many[i] = fmt.Sprint(i)
		}
		return many, nil
	}); err == nil {
		t.Error("too many are kept")
	}
	if err := keepAllowed(state, "plain", func([]string) ([]string, error) { return nil, nil }); err != nil {
		t.Error(err)
	}
	if kept, err := keptAllowed(state, "plain"); err != nil || kept != nil {
		t.Errorf("after all was taken back: %v, %v", kept, err)
	}
}
