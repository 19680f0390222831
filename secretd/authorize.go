package secretd

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/audit"
)

// authorize is the one gate between a run and a value: it decides and records, or
// refuses. An answer that cannot be recorded is no. The value is in locked memory
// and stays the daemon's.
func (d *Daemon) authorize(ctx context.Context, g *grant, r api.ResolveRequest) ([]byte, error) {
	name, value, err := d.decide(ctx, g, r)
	event := audit.Event{Verb: "resolve", Agent: g.Agent, Run: g.Run, Host: destination(r), Port: r.Port, Use: r.Use.String()}
	if name != "" {
		event.Names = []string{name}
	}
	if err != nil {
		event.Refused = api.FromCode(api.Code(err)).Error()
		d.log.Info("refused", zap.String("run", g.Run), zap.String("secret", name), zap.String("host", event.Host), zap.String("reason", event.Refused))
	}
	// Not durable at once: a power cut that loses this line also ends the run.
	if failed := d.audit.Record(event, false); failed != nil {
		d.log.Error("cannot record", zap.Error(failed))
		return nil, api.ErrUnavailable
	}
	if err != nil {
		return nil, api.FromCode(api.Code(err))
	}
	d.markUsed(g.Agent, name)
	return value, nil
}

func destination(r api.ResolveRequest) string {
	if r.Host != "" {
		return string(r.Host)
	}
	return r.Addr
}

// decide names the secret behind a placeholder and gives its value when this
// destination may have it. The name is "" when there is no such secret.
func (d *Daemon) decide(ctx context.Context, g *grant, r api.ResolveRequest) (string, []byte, error) {
	e := g.find(r.Placeholder)
	if e == nil {
		return "", nil, api.ErrUnknown
	}
	writes := d.ledger.Writes()
	s, err := d.current(ctx, g, e)
	if err != nil {
		return e.Name, nil, err
	}
	// Who binds a secret while a run holds it unbound, or allows it to that run, means that run too.
	binding, standing := e.Binding, !e.Override
	if !binding.Bound() && !e.Override {
		if binding = s.effective(); !binding.Bound() {
			binding, standing = d.allowedTo(g, e.Name), false
		}
	}
	if !binding.Bound() {
		return e.Name, nil, api.ErrUnbound
	}
	if !covers(binding, r) {
		return e.Name, nil, api.ErrHost
	}
	// A binding that was narrowed since the grant holds at once. An override of
	// superserve.yaml stands by itself.
	if standing && !covers(s.effective(), r) {
		return e.Name, nil, api.ErrHost
	}
	value, err := d.value(s, writes)
	return e.Name, value, err
}

// find compares every placeholder in full, so that the time says nothing.
func (g *grant) find(placeholder string) *granted {
	var found *granted
	for i := range g.Granted {
		e := &g.Granted[i]
		same := subtle.ConstantTimeCompare([]byte(e.Placeholder), []byte(placeholder)) == 1
		if same && e.Placeholder != "" && !e.Exposed {
			found = e
		}
	}
	return found
}

// current returns the stored secret behind an entry. One that was deleted, or set
// anew after it was deleted, is revoked for this grant.
func (d *Daemon) current(ctx context.Context, g *grant, e *granted) (*secret, error) {
	s, err := d.loadForUse(ctx, g.Agent, e.Name)
	if errors.Is(err, api.ErrNotFound) {
		return nil, api.ErrRevoked
	}
	if err != nil {
		return nil, err
	}
	if s.Origin != e.Origin {
		return nil, fmt.Errorf("secret %q was set anew: %w", e.Name, api.ErrRevoked)
	}
	return s, nil
}

// covers reports whether a binding has the destination and the place of a request.
func covers(b api.Binding, r api.ResolveRequest) bool {
	if len(b.Uses) > 0 && !slices.Contains(b.Uses, r.Use) {
		return false
	}
	if len(b.Uses) == 0 && r.Use.Kind != api.UseBearer && r.Use.Kind != api.UseHeader && r.Use.Kind != api.UseBasic {
		return false
	}
	if (r.Host == "") == (r.Addr == "") {
		return false
	}
	if r.Host != "" {
		return slices.ContainsFunc(b.Hosts, func(p api.Pattern) bool { return p.Match(r.Host, r.Port) })
	}
	addr, err := netip.ParseAddr(r.Addr)
	return err == nil && slices.ContainsFunc(b.Hosts, func(p api.Pattern) bool { return p.MatchAddr(addr, r.Port) })
}
