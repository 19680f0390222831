package cli

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

const (
	// askTimeout is how long a request or a connection waits for somebody to answer; then it is refused.
	askTimeout = time.Minute
	// maxQuestions is how much one run may ask about its secrets, and how much about its network: an agent must not wear
	// its user down.
	maxQuestions = 8
	// maxWaiting is how many requests and connections may wait for answers at a time; more are refused at once.
	maxWaiting = 64
)

// questions are what the proxy has asked its supervisor, each once. It is safe for concurrent use.
type questions struct {
	tell func(sandbox.Notice) bool

	mu      sync.Mutex
	number  uint64
	all     map[sandbox.Question]*pending
	waiting int
}

// pending is one of them; done is closed when it is answered.
type pending struct {
	number uint64
	done   chan struct{}
	allow  bool
}

// secret implements swap.Question.
func (q *questions) secret(ctx context.Context, secret string, h api.Host, port uint16) bool {
	return q.ask(ctx, sandbox.Question{Secret: secret, Host: h, Port: port})
}

// network implements proxy.Config.Ask.
func (q *questions) network(ctx context.Context, h api.Host, port uint16) {
	q.ask(ctx, sandbox.Question{Host: h, Port: port})
}

// ask waits for the answer to a question. A client that is gone by then finds the answer when it comes again.
func (q *questions) ask(ctx context.Context, about sandbox.Question) bool {
	one := q.join(about)
	if one == nil {
		return false
	}
	defer q.leave()
	timer := time.NewTimer(askTimeout)
	defer timer.Stop()
	select {
	case <-one.done:
		return one.allow
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// join returns a question that was asked before, or asks it; nil when that may not be asked.
func (q *questions) join(about sandbox.Question) *pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting == maxWaiting || !about.Fits() {
		return nil
	}
	one := q.all[about]
	if one == nil {
		if one = q.put(about); one == nil {
			return nil
		}
	}
	q.waiting++
	return one
}

// put asks, unless enough was asked of this kind or the supervisor is slow.
func (q *questions) put(about sandbox.Question) *pending {
	alike := 0
	for other := range q.all {
		if (other.Secret == "") == (about.Secret == "") {
			alike++
		}
	}
	if alike >= maxQuestions {
		return nil
	}
	one := &pending{number: q.number + 1, done: make(chan struct{})}
	n := sandbox.Notice{Kind: "question", Text: about.Target() + ": " + egress.Decision{Reason: egress.ReasonUnlisted}.Explain(),
		Host: string(about.Host), Port: about.Port, Secret: about.Secret, Ask: one.number}
	if about.Secret != "" {
		n.Text = about.Secret + " to " + about.Target() + ": the secret is bound to no host"
	}
	if !q.tell(n) {
		return nil
	}
	if q.all == nil {
		q.all = map[sandbox.Question]*pending{}
	}
	q.number++
	q.all[about] = one
	return one
}

func (q *questions) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting--
}

// answer ends the wait of a question's requests. One that nobody could be asked is forgotten, to be asked again.
func (q *questions) answer(number uint64, reply sandbox.Reply) {
	q.mu.Lock()
	defer q.mu.Unlock()
	maps.DeleteFunc(q.all, func(_ sandbox.Question, one *pending) bool {
		if one.number != number {
			return false
		}
		select {
		case <-one.done: // an answer that came twice
			return false
		default:
		}
		one.allow = reply == sandbox.Allowed
		close(one.done)
		return reply == sandbox.Unasked
	})
}

// answered does what somebody has answered. The swapper knows before the requests go on.
func (p *proxyRun) answered(a sandbox.Answer) {
	if a.Reply == sandbox.Allowed && a.Binding != nil {
		p.gate.swap.Rebind(a.Secret, *a.Binding)
	}
	p.questions.answer(a.Ask, a.Reply)
}
