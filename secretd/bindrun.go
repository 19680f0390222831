package secretd

import (
	"context"
	"errors"
	"fmt"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/audit"
	"github.com/superserve/superserve/secretd/locked"
)

// BindRun binds a secret that one run holds unbound, for that run alone: what somebody has allowed once. The error wraps
// api.ErrNotFound when there is no such run or it does not hold the secret, and api.ErrDenied when it holds it bound.
func (d *Daemon) BindRun(ctx context.Context, who caller, run, name string, b api.Binding) error {
	if err := errors.Join(api.CheckRun(run), api.CheckName(name)); err != nil {
		return err
	}
	if !b.Bound() {
		return fmt.Errorf("bind %q: %w: no host is given", name, api.ErrInvalid)
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	g, e := d.heldBy(run, name)
	if e == nil {
		return fmt.Errorf("secret %q of run %q: %w", name, run, api.ErrNotFound)
	}
	if e.Binding.Bound() || e.Exposed {
		return fmt.Errorf("secret %q of run %q is bound: %w", name, run, api.ErrDenied)
	}
	s, err := d.load(ctx, g.Agent, name)
	if err != nil {
		return err
	}
	value, err := d.openValue(s)
	if err != nil {
		return err
	}
	defer locked.Wipe(value)
	if err := checkBinding(name, b, value); err != nil {
		return err
	}
	if err := d.record(who, audit.Event{Verb: "bind", Agent: g.Agent, Run: run, Names: []string{name}}); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.grants[g.id] != g {
		return fmt.Errorf("run %q: %w", run, api.ErrNotFound) // it has ended meanwhile
	}
	if d.allowed == nil {
		d.allowed = make(map[string]api.Binding)
	}
	d.allowed[g.id+"/"+name] = b
	return nil
}

// allowedTo returns what a run was allowed with a secret beyond its grant. It is not stored: after a restart of the
// daemon somebody has to be asked again.
func (d *Daemon) allowedTo(g *grant, name string) api.Binding {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.allowed[g.id+"/"+name]
}

// heldBy finds a run's grant and the secret in it.
func (d *Daemon) heldBy(run, name string) (*grant, *granted) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, g := range d.grants {
		if g.Run != run {
			continue
		}
		for i := range g.Granted {
			if g.Granted[i].Name == name {
				return g, &g.Granted[i]
			}
		}
	}
	return nil, nil
}
