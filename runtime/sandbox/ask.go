package sandbox

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/api"
)

// Question is whether a secret that is bound to no host may go to one or, without a Secret, whether the agent may connect
// to a name that no rule of its network speaks of. A request, or a connection, waits for the answer.
type Question struct {
	Secret string
	Host   api.Host
	Port   uint16
}

// Target is HOST:PORT.
func (q Question) Target() string { return net.JoinHostPort(string(q.Host), strconv.Itoa(int(q.Port))) }

// Binding is that of the secret to this destination and no other.
func (q Question) Binding() *api.Binding {
	p := api.Pattern{Host: q.Host, Port: q.Port}
	if p.Port == api.DefaultPort {
		p.Port = 0
	}
	return &api.Binding{Hosts: []api.Pattern{p}}
}

// longestAsked is the longest name that is asked about, in bytes: a longer one fills lines, and a person reads how it
// begins, while how it ends says whose it is.
const longestAsked = 80

// ownNames are the last labels of names that mean something else in each network, or nothing (RFC 6761, RFC 6762,
// RFC 7686, RFC 8375; ICANN reserves .internal).
var ownNames = []string{"localhost", "local", "internal", "arpa", "onion", "invalid"}

// Fits reports whether a person can be asked. The agent chose the name: it must be short, of letters, digits and hyphens,
// and for a connection one of the public DNS.
func (q Question) Fits() bool {
	h, err := api.ParseHost(string(q.Host))
	if err != nil || h != q.Host || len(h) > longestAsked || q.Port == 0 || strings.Contains(string(h), "_") {
		return false
	}
	if q.Secret != "" {
		return api.CheckName(q.Secret) == nil
	}
	at := strings.LastIndexByte(string(h), '.')
	return at > 0 && !slices.Contains(ownNames, string(h[at+1:]))
}

// Reply is an answer to a Question.
type Reply int

// The replies.
const (
	Unasked Reply = iota // nobody is there to be asked; the next time they may be
	Refused              // no, for the rest of the run
	Allowed              // yes, for the run at least
)

// Ask answers a question. It is called from a goroutine of its own, one for each question; ctx ends with the run. s is the
// run. Where the reply is Allowed, a secret that another process keeps has been bound by Ask; one of a Source, and the
// network, are this package's business.
type Ask func(ctx context.Context, s *Sandbox, q Question) Reply

// Answer is what a supervisor tells its proxy.
type Answer struct {
	Ask     uint64       `json:"ask"`               // the number of the question
	Reply   Reply        `json:"reply"`             //
	Secret  string       `json:"secret,omitempty"`  //
	Binding *api.Binding `json:"binding,omitempty"` // of the secret, when it is allowed
}

// maxReplies is how many questions of a run are put to its user. The proxy, which asks, has a lower limit of its own.
const maxReplies = 32

// answerProxy has a question of the proxy's answered. What it asks of is its word: it is the user who decides, and secretd
// and the policy that keep to the decision.
func (s *Sandbox) answerProxy(n Notice) {
	host, _ := api.ParseHost(n.Host)
	q := Question{Secret: n.Secret, Host: host, Port: n.Port}
	answer := &Answer{Ask: n.Ask, Reply: Refused, Secret: n.Secret}
	if q.Fits() && s.replies.Load() < maxReplies {
		answer.Reply = s.cfg.Ask(s.askable, s, q)
	}
	if answer.Reply == Allowed {
		if err := s.allow(q, answer); err != nil {
			s.cfg.Log.Warn("allow what was asked for", zap.Error(err))
			answer.Reply = Refused
		}
	}
	if answer.Reply != Unasked {
		s.replies.Add(1)
		s.keepAnswer(q, answer.Reply)
	}
	if err := s.give(s.askable, order(Order{Answer: answer}), nil); err != nil {
		s.cfg.Log.Debug("answer the proxy", zap.Error(err))
	}
}

// keepAnswer keeps what was answered, for who watches the run or reads of it later.
func (s *Sandbox) keepAnswer(q Question, r Reply) {
	said := "refused"
	if r == Allowed {
		said = "allowed"
	}
	text := "connections to " + q.Target() + ": " + said + " when asked"
	if q.Secret != "" {
		text = q.Secret + " to " + q.Target() + ": " + said + " when asked"
	}
	n := Notice{Kind: "answer", Text: text, Host: string(q.Host), Port: q.Port, Secret: q.Secret}
	if err := s.dir.notices.keep(n); err != nil {
		s.cfg.Log.Warn("keep notice", zap.Error(err))
	}
}

// allow does what was allowed, before the proxy hears of it.
func (s *Sandbox) allow(q Question, a *Answer) error {
	if q.Secret == "" {
		return s.changeNetwork(s.askable, func(n Network) Network {
			n.Allow = append(slices.Clone(n.Allow), q.Target())
			return n
		})
	}
	a.Binding = q.Binding()
	return s.grant.bind(q.Secret, *a.Binding)
}

// HoldTerminal keeps the agent from what is typed, and its output from the screen, until release is called, so that the
// caller can ask something there: of two readers of one terminal each gets some lines, and an agent that may write could
// write another question over the caller's. The error is that of ctx: the screen may take nothing more at the moment.
func (s *Sandbox) HoldTerminal(ctx context.Context) (release func(), err error) {
	held := make(chan struct{})
	go func() {
		s.io.typing.Lock()
		s.io.showing.Lock()
		close(held)
	}()
	release = func() {
		s.io.showing.Unlock()
		s.io.typing.Unlock()
	}
	select {
	case <-held:
		return release, nil
	case <-ctx.Done():
		go func() { <-held; release() }()
		return nil, ctx.Err()
	}
}
