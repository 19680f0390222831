package web

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/dial"
	"github.com/superserve/superserve/proxy/swap"
)

// Refuse returns the protocol that answers connections that have no upstream: to
// names that policy refuses, and to upstreams that passthrough could not reach. It
// ends TLS with the run's authority and answers every request with the verdict: 403,
// 502 or 504. It records nothing: who judged the connection has. Nothing goes upstream. An agent that reads an answer goes on
// in a second; on silence it waits half a minute.
func (s *Server) Refuse() proxy.Protocol { return refuser{s} }

type refuser struct{ srv *Server }

// Name returns "refuse".
func (r refuser) Name() string { return "refuse" }

// ServeConn answers one connection and closes c.
func (r refuser) ServeConn(ctx context.Context, c *proxy.Conn) error {
	ses := r.srv.begin(c)
	defer r.srv.end(ses)
	ses.told = true
	stop := context.AfterFunc(ctx, ses.abort)
	defer stop()
	return ses.answer(ctx, refuseVerdict(c))
}

func refuseVerdict(c *proxy.Conn) *swap.Refusal {
	ref := &swap.Refusal{Status: http.StatusForbidden, Reason: "destination_refused", Detail: c.Verdict.Explain()}
	switch {
	case c.Verdict.Reason == dial.ReasonTimeout:
		ref.Status, ref.Reason = http.StatusGatewayTimeout, c.Verdict.Reason
	case strings.HasPrefix(c.Verdict.Reason, dial.ReasonPrefix):
		ref.Status, ref.Reason = http.StatusBadGateway, c.Verdict.Reason
	default:
		ref.Advice = "a rule under network.allow in superserve.yaml can allow it"
	}
	return ref
}

// answer finishes the client's handshake, under the name that the client asked
// for so that it gets to read, and answers every request with ref. The client's
// choice is HTTP/1.1 where it has one.
func (s *session) answer(ctx context.Context, ref *swap.Refusal) error {
	if s.conn.Hello == nil {
		return s.answerHTTP1(ctx, ref)
	}
	name := s.conn.Hello.ServerName
	if name == "" {
		name = s.conn.Name()
	}
	s.alpn = protoHTTP1
	if offer := offered(s.conn.Hello.ALPN); len(offer) == 1 {
		s.alpn = offer[0]
	}
	if err := s.handshake(name, s.alpn); err != nil {
		return err
	}
	if s.alpn == protoHTTP2 {
		return s.answerHTTP2(ctx, ref)
	}
	return s.answerHTTP1(ctx, ref)
}

// answerHTTP1 reads one request's head and answers it with ref, or with what is
// wrong with it, and closes.
func (s *session) answerHTTP1(_ context.Context, ref *swap.Refusal) error {
	r := newH1Relay(s)
	defer r.release()
	s.client.SetReadDeadline(time.Now().Add(headTimeout)) //nolint:errcheck // the read fails then
	n, bad, err := r.await()
	if err != nil {
		return nil // a client that asks nothing needs no answer
	}
	r.texts = textPool.Get().(*texts)
	defer r.texts.release()
	r.begin(n)
	if bad == nil {
		bad = r.req.parse(r.head, s.target.TLS)
	}
	if bad == nil {
		r.name()
		bad = ref
	}
	r.event.Rule = s.conn.Verdict.Rule
	return r.refuse(bad, false)
}
