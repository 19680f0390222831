package secretd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/audit"
	"github.com/superserve/superserve/secretd/preset"
	"github.com/superserve/superserve/secretd/store"
)

// Renew stores the tokens that a provider gave for the grant's refresh token: it and the
// secrets beside it, all or none. It is the only thing that a run may change, and only
// for a secret whose stored binding has the use oauth: an override of superserve.yaml
// gives no such right.
func (g *grant) Renew(ctx context.Context, r api.Renewal) error {
	d := g.daemon
	names, err := d.renew(ctx, g, r)
	if err == nil {
		for _, name := range names {
			d.tell(g.Agent, api.Change{Name: name, Kind: api.Rotated})
		}
		return nil
	}
	reason := api.FromCode(api.Code(err))
	d.log.Warn("cannot renew", zap.String("run", g.Run), zap.Strings("secrets", names), zap.NamedError("reason", reason))
	event := audit.Event{Verb: "renew", Agent: g.Agent, Run: g.Run, Names: names, Refused: reason.Error()}
	if failed := d.audit.Record(event, false); failed != nil {
		d.log.Error("cannot record", zap.Error(failed))
	}
	return reason
}

// renew returns the names of what it stored, or of what it was asked for.
func (d *Daemon) renew(ctx context.Context, g *grant, r api.Renewal) ([]string, error) {
	e := g.find(r.Placeholder)
	if e == nil {
		return nil, api.ErrUnknown
	}
	asked := []string{e.Name}
	d.changing.Lock()
	defer d.changing.Unlock()
	login, err := d.current(ctx, g, e)
	if err != nil {
		return asked, err
	}
	if !refreshes(login.effective()) {
		return asked, api.ErrDenied
	}
	names, changes, err := d.sealLogin(ctx, g.Agent, e.Name, r)
	if err != nil || len(changes) == 0 {
		return asked, err
	}
	if err := d.audit.Record(audit.Event{Verb: "renew", Agent: g.Agent, Run: g.Run, Names: names}, true); err != nil {
		return names, api.ErrUnavailable
	}
	if err := d.store.Apply(ctx, changes); err != nil {
		return names, fmt.Errorf("store renewed secrets: %w", err)
	}
	return names, nil
}

// refreshes reports whether a binding is that of a refresh token.
func refreshes(b api.Binding) bool {
	for _, u := range b.Uses {
		if u.Kind == api.UseOAuth {
			return true
		}
	}
	return false
}

// sealLogin seals what r has of a login, for the secrets that exist of it.
func (d *Daemon) sealLogin(ctx context.Context, agent, refresh string, r api.Renewal) ([]string, []store.Change, error) {
	access, id := api.LoginNames(refresh)
	var names []string
	var changes []store.Change
	for _, part := range []struct {
		name    string
		value   []byte
		expires time.Time
	}{{refresh, r.Refresh, time.Time{}}, {access, r.Access, r.Expires}, {id, r.ID, time.Time{}}} {
		if part.name == "" || len(part.value) == 0 {
			continue
		}
		change, err := d.sealNext(ctx, agent, api.Setting{Name: part.name, Value: part.value, Expires: part.expires})
		if errors.Is(err, api.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		names, changes = append(names, part.name), append(changes, change)
	}
	return names, changes, nil
}

// sealNext seals the next value of one secret under the binding that it has.
func (d *Daemon) sealNext(ctx context.Context, agent string, next api.Setting) (store.Change, error) {
	s, err := d.load(ctx, agent, next.Name)
	if err != nil {
		return store.Change{}, err
	}
	// A value that reads as a URL could bind itself anew.
	if _, ok := preset.ForValue(next.Value); ok {
		return store.Change{}, fmt.Errorf("renew %q: %w", next.Name, api.ErrInvalid)
	}
	if err := s.take(&next); err != nil {
		return store.Change{}, err
	}
	return d.seal(s, next.Value)
}
