package web

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/proxy/swap"
)

// serveHTTP2 relays the session's two connections, both of which speak HTTP/2,
// until either ends. It closes both.
func (s *session) serveHTTP2(ctx context.Context) error {
	s.mu.Lock()
	up := s.upstream
	s.mu.Unlock()
	if up == nil {
		return net.ErrClosed
	}
	r := newRelay(s.client, up, &sessionJudge{s: s})
	r.shared = &s.srv.held
	r.authority = string(appendAuthority(nil, &s.target))
	return r.run(ctx)
}

// answerHTTP2 answers every request of an HTTP/2 client with ref, for a name that
// is refused or an upstream that cannot be reached, until the client closes or a
// minute has passed.
func (s *session) answerHTTP2(ctx context.Context, ref *swap.Refusal) error {
	return newRelay(s.client, nil, &refusingJudge{sessionJudge{s: s}, ref}).run(ctx)
}

// sessionJudge is a session as its relay sees it.
type sessionJudge struct {
	s    *session
	cuts uint64 // before the secrets of the request were asked for
}

func (j *sessionJudge) owns(authority string) bool {
	t := &j.s.target
	if authority == string(t.Host) && t.Port == 443 {
		return true
	}
	name, port, ok := splitAuthority([]byte(authority), t)
	return ok && name == t.Host && port == t.Port
}

func (j *sessionJudge) wantsBody(fields []swap.Field) bool {
	return j.s.srv.swap.WantsBody(&j.s.target, fields)
}

func (j *sessionJudge) credentials(ctx context.Context, q swap.Request) (*swap.Plan, *swap.Refusal) {
	j.cuts = j.s.srv.cuts.Load()
	return j.s.srv.swap.JudgeRequest(ctx, j.s.target, q)
}

// use records each secret once, before its value leaves.
func (j *sessionJudge) use(st *h2stream, plan *swap.Plan) *swap.Refusal {
	if ref := j.s.note(plan, j.cuts); ref != nil {
		return ref
	}
	for i, used := range plan.Secrets {
		if slices.ContainsFunc(plan.Secrets[:i], func(u swap.Used) bool { return u.Name == used.Name }) {
			continue
		}
		ev := j.base(st)
		ev.Kind, ev.Verdict, ev.Secret = audit.Credential, audit.Allowed, used.Name
		if j.s.srv.audit.Record(ev) != nil {
			return refuseUnrecorded
		}
	}
	return nil
}

func (j *sessionJudge) cover(set *redact.Set, plan *swap.Plan) *redact.Set {
	var space [4]redact.Pair
	j.s.carry(plan)
	return j.s.srv.forms.With(set, plan.AppendPairs(space[:0]))
}

func (j *sessionJudge) latest(set *redact.Set) *redact.Set {
	if latest := j.s.srv.forms.Latest(); latest != nil && j.searched(set) {
		return latest
	}
	return set
}

func (j *sessionJudge) searched(set *redact.Set) bool { return set != nil || j.s.bound() }

func (j *sessionJudge) event(st *h2stream) audit.Event {
	ev := j.base(st)
	ev.Kind, ev.Verdict, ev.Reason = audit.Request, audit.Allowed, st.reason
	switch {
	case st.refused:
		ev.Verdict = audit.Refused
	case st.reason != "":
		ev.Verdict = audit.Failed
	}
	ev.Status, ev.Sent, ev.Received = st.status, st.sent, st.received
	ev.Duration = time.Since(st.began)
	return ev
}

// base is what all events of a stream have in common.
func (j *sessionJudge) base(st *h2stream) audit.Event {
	path, _, _ := strings.Cut(st.path, "?")
	return audit.Event{
		Time: st.began, Conn: j.s.conn.ID, Protocol: "web",
		Name: string(j.s.target.Host), Port: j.s.target.Port,
		Rule: j.s.conn.Verdict.Rule, Method: st.method, Path: j.s.srv.swap.AuditPath(path),
	}
}

func (j *sessionJudge) record(events []audit.Event) error {
	if j.s.told {
		return nil
	}
	for _, ev := range events {
		if err := j.s.srv.audit.Record(ev); err != nil {
			return err
		}
	}
	return nil
}

// refusingJudge refuses all that is well formed.
type refusingJudge struct {
	sessionJudge
	ref *swap.Refusal
}

func (j *refusingJudge) owns(string) bool { return true }

func (j *refusingJudge) permit(string, string) *swap.Refusal { return nil }

func (j *refusingJudge) wantsBody([]swap.Field) bool { return false }

func (j *refusingJudge) credentials(context.Context, swap.Request) (*swap.Plan, *swap.Refusal) {
	return nil, j.ref
}
