package cli

import (
	"context"
	"net"

	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/lease"
)

// grants are the leases of one run: of the secrets that secretd keeps, of those that the caller brought, of both or of
// none.
type grants []*lease.Lease

// openGrants opens the run's grants; without one every placeholder is unknown.
func (p *proxyRun) openGrants() error {
	redial, err := p.redial()
	if err != nil {
		return err
	}
	if err := p.openGrant(p.handoff.FDs.Grant, "grant", redial); err != nil {
		return err
	}
	return p.openGrant(p.handoff.FDs.Second, "second", nil)
}

func (p *proxyRun) openGrant(fd int, name string, redial func(context.Context) (net.Conn, error)) error {
	if fd == 0 {
		return nil
	}
	conn, err := inheritedConn(fd, name)
	if err != nil {
		return err
	}
	l, err := lease.Open(conn, lease.Options{Redial: redial, OnChange: p.changed})
	if err == nil {
		p.grants = append(p.grants, l)
	}
	return err
}

// changed cuts the streams that carry a secret which was taken away with --now.
func (p *proxyRun) changed(c api.Change) {
	if !c.Cut {
		return
	}
	p.wires.cut(c.Name)
	if relay := p.web.Load(); relay != nil {
		relay.Cut(c.Name)
	}
}

// redial returns how the grant is taken up again after a restart of secretd; nil when it cannot be.
func (p *proxyRun) redial() (func(context.Context) (net.Conn, error), error) {
	token := p.handoff.Resume
	if token == "" || p.handoff.FDs.Secretd == 0 {
		return nil, nil
	}
	dir, err := inherited(p.handoff.FDs.Secretd, "secretd")
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, dir)
	secretd := client.ResumeAt(dir)
	return func(ctx context.Context) (net.Conn, error) { return secretd.Resume(ctx, token) }, nil
}

// close ends the leases.
func (g grants) close() {
	for _, l := range g {
		_ = l.Close() // nobody is left to be told
	}
}

// entries are the secrets of all leases.
func (g grants) entries() []api.Entry {
	var all []api.Entry
	for _, l := range g {
		all = append(all, l.Entries()...)
	}
	return all
}

// resolver asks the lease that a placeholder is of. With one lease that is the lease itself, which is what nearly every
// run has and what every request passes.
func (g grants) resolver() swap.Resolver {
	if len(g) == 1 {
		return g[0]
	}
	r := resolvers{}
	for _, l := range g {
		for _, e := range l.Entries() {
			r[e.Placeholder] = l
		}
	}
	return r
}

// resolvers are leases by placeholder.
type resolvers map[string]*lease.Lease

// Renew implements swap.Renewer.
func (r resolvers) Renew(ctx context.Context, renewal api.Renewal) error {
	l, ok := r[renewal.Placeholder]
	if !ok {
		return api.ErrUnknown
	}
	return l.Renew(ctx, renewal)
}

// Resolve implements swap.Resolver.
func (r resolvers) Resolve(ctx context.Context, ask api.ResolveRequest) (api.Secret, error) {
	l, ok := r[ask.Placeholder]
	if !ok {
		return nil, api.ErrUnknown
	}
	return l.Resolve(ctx, ask)
}
