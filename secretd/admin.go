package secretd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/publicsuffix"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/audit"
	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/preset"
	"github.com/superserve/superserve/secretd/store"
)

// minValue is the shortest value that answers can be searched for without harm to
// ordinary text, in bytes.
const minValue = 8

// Set stores secrets of an agent, all or none, and tells the runs that hold them.
// It returns the agent's names, sorted. The values stay the caller's.
func (d *Daemon) Set(ctx context.Context, who caller, agent string, settings []api.Setting) ([]string, error) {
	if err := api.CheckAgent(agent); err != nil {
		return nil, err
	}
	if len(settings) == 0 || len(settings) > api.MaxSecrets {
		return nil, fmt.Errorf("set %d secrets: %w: give 1 to %d", len(settings), api.ErrInvalid, api.MaxSecrets)
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	changes, err := d.prepare(ctx, agent, settings)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(settings))
	for i := range settings {
		names[i] = settings[i].Name
	}
	if err := d.record(who, audit.Event{Verb: "set", Agent: agent, Names: names}); err != nil {
		return nil, err
	}
	if err := d.store.Apply(ctx, changes); err != nil {
		return nil, fmt.Errorf("store secrets: %w", err)
	}
	for _, name := range names {
		d.tell(agent, api.Change{Name: name, Kind: api.Rotated})
	}
	return d.names(ctx, agent)
}

// prepare checks every setting and seals its value before any is stored.
func (d *Daemon) prepare(ctx context.Context, agent string, settings []api.Setting) ([]store.Change, error) {
	all, err := d.loadAll(ctx, agent)
	if err != nil {
		return nil, err
	}
	known := make(map[string]*secret, len(all))
	for _, s := range all {
		known[s.name] = s
	}
	seen := make(map[string]bool)
	changes := make([]store.Change, 0, len(settings))
	for i := range settings {
		set := &settings[i]
		if seen[set.Name] {
			return nil, fmt.Errorf("secret %q is given twice: %w", set.Name, api.ErrInvalid)
		}
		seen[set.Name] = true
		s := known[set.Name]
		if s == nil {
			s = &secret{agent: agent, name: set.Name}
			known[set.Name] = s
		}
		if err := s.take(set); err != nil {
			return nil, err
		}
		change, err := d.seal(s, set.Value)
		if err != nil {
			return nil, err
		}
		changes = append(changes, change)
	}
	if len(known) > api.MaxSecrets {
		return nil, fmt.Errorf("agent %q would have %d secrets: %w: the most is %d", agent, len(known), api.ErrInvalid, api.MaxSecrets)
	}
	return changes, nil
}

// take checks a setting and puts all but the value into s.
func (s *secret) take(set *api.Setting) error {
	if err := api.CheckName(set.Name); err != nil {
		return err
	}
	if err := checkValue(set); err != nil {
		return fmt.Errorf("value of %q: %w: %w", set.Name, api.ErrInvalid, err)
	}
	switch {
	case set.Binding != nil:
		s.Binding, s.Derived = *set.Binding, false
	case !s.Binding.Bound() || s.Derived:
		s.Binding, s.Derived = preset.ForValue(set.Value)
	}
	if err := checkBinding(s.name, s.effective(), set.Value); err != nil {
		return err
	}
	s.Expires = set.Expires
	s.Version++
	s.SetAt = time.Now().UTC()
	return nil
}

func checkValue(set *api.Setting) error {
	switch {
	case len(set.Value) == 0:
		return errors.New("it is empty")
	case len(set.Value) > api.MaxValue:
		return fmt.Errorf("it is longer than %d bytes", api.MaxValue)
	case len(set.Value) < minValue && !set.AllowShort:
		return fmt.Errorf("it is shorter than %d bytes, which answers cannot be searched for safely; --allow-short takes it all the same", minValue)
	case bytes.IndexByte(set.Value, 0) >= 0:
		return errors.New("it holds a NUL byte")
	}
	return nil
}

// checkBinding checks a binding by itself and against the value.
func checkBinding(name string, b api.Binding, value []byte) error {
	if err := b.Check(); err != nil {
		return fmt.Errorf("bind %q: %w", name, err)
	}
	for _, h := range b.Hosts {
		suffix, icann := publicsuffix.PublicSuffix(string(h.Host))
		if h.Wild && icann && suffix == string(h.Host) {
			return fmt.Errorf("bind %q to %q: %w: anybody can have a name below %s", name, h, api.ErrInvalid, suffix)
		}
	}
	if b.Bound() && inHeader(b.Uses) && bytes.ContainsAny(value, "\r\n") {
		return fmt.Errorf("bind %q: %w: the value has a line break, which no header can carry", name, api.ErrInvalid)
	}
	return nil
}

func inHeader(uses []api.Use) bool {
	for _, u := range uses {
		if u.Kind == api.UseBearer || u.Kind == api.UseHeader {
			return true
		}
	}
	return len(uses) == 0
}

// List returns an agent's secrets without their values, sorted by name.
func (d *Daemon) List(ctx context.Context, agent string) ([]api.Info, error) {
	if err := api.CheckAgent(agent); err != nil {
		return nil, err
	}
	all, err := d.loadAll(ctx, agent)
	if err != nil {
		return nil, err
	}
	infos := make([]api.Info, len(all))
	for i, s := range all {
		infos[i] = api.Info{Name: s.name, Binding: s.effective(), Version: s.Version, SetAt: s.SetAt, LastUsed: d.lastUsed(ctx, agent, s.name), Today: d.usedToday(ctx, agent, s.name)}
	}
	return infos, nil
}

// Delete removes a secret and tells the runs that hold it; now also asks them to cut
// the streams that carry it. It returns the names that remain, sorted.
func (d *Daemon) Delete(ctx context.Context, who caller, agent, name string, now bool) ([]string, error) {
	if err := errors.Join(api.CheckAgent(agent), api.CheckName(name)); err != nil {
		return nil, err
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	s, err := d.load(ctx, agent, name)
	if err != nil {
		return nil, err
	}
	if err := d.record(who, audit.Event{Verb: "delete", Agent: agent, Names: []string{name}}); err != nil {
		return nil, err
	}
	if err := d.store.Apply(ctx, []store.Change{{Key: secretKey(agent, name), Delete: true, Base: s.revision}}); err != nil {
		return nil, fmt.Errorf("delete secret: %w", err)
	}
	d.tell(agent, api.Change{Name: name, Kind: api.Revoked, Cut: now})
	return d.names(ctx, agent)
}

// Bind replaces the binding of a stored secret. A run keeps what it was granted but
// for hosts and places that the new binding no longer has.
func (d *Daemon) Bind(ctx context.Context, who caller, agent, name string, b api.Binding) error {
	if err := errors.Join(api.CheckAgent(agent), api.CheckName(name)); err != nil {
		return err
	}
	if !b.Bound() {
		return fmt.Errorf("bind %q: %w: no host is given", name, api.ErrInvalid)
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	s, err := d.load(ctx, agent, name)
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
	s.Binding, s.Derived = b, false
	change, err := d.seal(s, value)
	if err != nil {
		return err
	}
	if err := d.record(who, audit.Event{Verb: "bind", Agent: agent, Names: []string{name}}); err != nil {
		return err
	}
	if err := d.store.Apply(ctx, []store.Change{change}); err != nil {
		return fmt.Errorf("store binding: %w", err)
	}
	d.tell(agent, api.Change{Name: name, Kind: api.Rotated})
	return nil
}

func (d *Daemon) names(ctx context.Context, agent string) ([]string, error) {
	all, err := d.loadAll(ctx, agent)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(all))
	for _, s := range all {
		names = append(names, s.name)
	}
	return names, nil
}

// record writes an admin event, durably. An admin verb that cannot be recorded is
// not carried out.
func (d *Daemon) record(who caller, e audit.Event) error {
	if e.Remote = who.remote; e.Remote == "" {
		uid := who.uid
		e.UID, e.PID = &uid, who.pid
	}
	if err := d.audit.Record(e, true); err != nil {
		return fmt.Errorf("%w: %w", api.ErrUnavailable, err)
	}
	return nil
}
