package cli

import (
	"context"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

const (
	// askTimeout is how long a request waits for somebody to answer; then it is refused.
	askTimeout = time.Minute
	// maxQuestions is how much one run may ask: an agent must not wear its user down.
	maxQuestions = 8
)

// questions are what the proxy has asked its supervisor, each once. It is safe for concurrent use.
type questions struct {
	tell func(sandbox.Notice)

	mu  sync.Mutex
	all []*pending
}

// pending is one of them; done is closed when it is answered.
type pending struct {
	sandbox.Question
	done  chan struct{}
	allow bool
}

// ask implements swap.Question.
func (q *questions) ask(ctx context.Context, secret string, h api.Host, port uint16) bool {
	one := q.find(sandbox.Question{Secret: secret, Host: h, Port: port})
	if one == nil {
		return false
	}
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

// find returns a question that was asked before, or asks it; nil when enough was asked.
func (q *questions) find(about sandbox.Question) *pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, one := range q.all {
		if one.Question == about {
			return one
		}
	}
	if len(q.all) == maxQuestions {
		return nil
	}
	one := &pending{Question: about, done: make(chan struct{})}
	q.all = append(q.all, one)
	to := net.JoinHostPort(string(about.Host), strconv.Itoa(int(about.Port)))
	q.tell(sandbox.Notice{
		Kind: "secret", Text: about.Secret + " was not sent to " + to + ": the secret is bound to no host", Host: string(about.Host), Port: about.Port,
		Secret: about.Secret, Ask: uint64(len(q.all)),
	})
	return one
}

// answer ends the wait of a question's requests.
func (q *questions) answer(number uint64, allow bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if number == 0 || number > uint64(len(q.all)) {
		return
	}
	one := q.all[number-1]
	select {
	case <-one.done: // an answer that came twice
	default:
		one.allow = allow
		close(one.done)
	}
}

// answered does what somebody has answered. The swapper knows before the requests go on.
func (p *proxyRun) answered(a sandbox.Answer) {
	if a.Binding != nil {
		p.gate.swap.Rebind(a.Secret, *a.Binding)
	}
	p.questions.answer(a.Ask, a.Binding != nil)
}
