package sandbox

import (
	"context"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/api"
)

// Question is whether a secret that is bound to no host may go to one. A request waits for the answer.
type Question struct {
	Secret string
	Host   api.Host
	Port   uint16
}

// Ask answers a question, by the binding that the secret has got meanwhile, or nil for no. It is called from a goroutine
// of its own, one for each question; ctx ends with the run. s is the run.
type Ask func(ctx context.Context, s *Sandbox, q Question) *api.Binding

// Answer is what a supervisor tells its proxy.
type Answer struct {
	Ask     uint64       `json:"ask"`               // the number of the question
	Secret  string       `json:"secret"`            //
	Binding *api.Binding `json:"binding,omitempty"` // nil is no
}

// answerProxy has a question of the proxy's answered. What it asks of is its word: it is the user who decides, and secretd
// that keeps to the decision.
func (s *Sandbox) answerProxy(n Notice) {
	answer := &Answer{Ask: n.Ask, Secret: n.Secret}
	if host, err := api.ParseHost(n.Host); err == nil && api.CheckName(n.Secret) == nil {
		answer.Binding = s.cfg.Ask(s.askable, s, Question{Secret: n.Secret, Host: host, Port: n.Port})
	}
	if answer.Binding == nil {
		s.tell(n)
	}
	if err := s.give(s.askable, Order{Answer: answer}, func() error { return nil }); err != nil {
		s.cfg.Log.Debug("answer the proxy", zap.Error(err))
	}
}

// HoldInput keeps the agent from what is typed until release is called, so that the caller can read Config.Stdin: of two
// readers of one terminal each gets some lines.
func (s *Sandbox) HoldInput() (release func()) {
	s.io.typing.Lock()
	return s.io.typing.Unlock
}
