package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/superserve/superserve/runtime/agent"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
)

// Where secretd's store is shared by several hosts, so are the agents: they are in that store, and what is in this
// host's state folder is a copy of them. It is run only after secretd has confirmed that it is what the store has: a
// copy that nobody vouches for may be one that was replaced for a reason.

var (
	// errUnconfirmed means that secretd, which would know what the agent is now, is not there.
	errUnconfirmed = errors.New("this host has a copy of it, and no secretd to say whether that is the agent's still")
	// errFleetDown means that the secretd does not run whose store other hosts share.
	errFleetDown = errors.New("its store is shared by several hosts, and it does not run")
	// errNoFleet means that --server names a secretd whose store is its own.
	errNoFleet = errors.New("the secretd at --server has a store of its own, which keeps no agents")
	// errHostFiles means that an agent from another host asks for files of this one.
	errHostFiles = errors.New("was deployed on another host and asks for files of this one")
)

// fetchTries is how often an agent is fetched that is deployed again meanwhile.
const fetchTries = 5

// fleet returns the secretd to ask for shared agents, nil where nobody listens: a secretd that is started on demand has
// a store of its own.
func (sh *shell) fleet(ctx context.Context) (*client.Client, error) {
	if sh.keeper != nil || sh.remote.server != "" {
		return sh.secretd(ctx)
	}
	p, err := sh.places()
	if err != nil {
		return nil, err
	}
	return client.New(p.socket), nil
}

// ask has secretd asked about shared agents. shared is false where agents are files of this host.
func (sh *shell) ask(ctx context.Context, question func(*client.Client) error) (shared bool, err error) {
	c, err := sh.fleet(ctx)
	if err != nil {
		return false, err
	}
	err = question(c)
	nobody := sh.remote.server == "" && (errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED))
	switch {
	case sh.remote.server != "" && errors.Is(err, api.ErrLocal):
		return true, errNoFleet
	case nobody && sh.sharesStore():
		return true, fmt.Errorf("ask secretd: %w", errFleetDown)
	case errors.Is(err, api.ErrLocal), nobody:
		return false, nil
	case sh.remote.server == "" && errors.Is(err, api.ErrInvalid): // a secretd that ran before this superserve came knows no such verb
		return false, nil
	}
	return true, err
}

// sharesStore reports whether the last secretd of this host had a store that hosts share: beside it there are the runs.
func (sh *shell) sharesStore() bool {
	p, err := sh.places()
	if err != nil {
		return false
	}
	return p.sharesStore()
}

func (p places) sharesStore() bool {
	_, runs := os.Stat(filepath.Join(p.state, "secretd", "runs.db"))
	_, own := os.Stat(filepath.Join(p.state, "secretd", "store.db"))
	return runs == nil && errors.Is(own, os.ErrNotExist)
}

// sharedAgent asks for one agent; nil without an error where the store has none of that name.
func (sh *shell) sharedAgent(ctx context.Context, name string) (a *api.Agent, shared bool, err error) {
	if api.CheckAgent(name) != nil {
		return nil, false, nil
	}
	shared, err = sh.ask(ctx, func(c *client.Client) error {
		found, err := c.Agent(ctx, name)
		if err == nil {
			a = &found
		}
		return err
	})
	if errors.Is(err, api.ErrNotFound) {
		err = nil
	}
	return a, shared, err
}

// deployed returns an agent that can be run here, fetched from the shared store if need be. The error wraps
// agent.ErrNotFound.
func (sh *shell) deployed(ctx context.Context, registry *agent.Registry, name string) (*agent.Agent, error) {
	info, shared, err := sh.sharedAgent(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("agent '%s': %w", escapeLine(name), err)
	}
	for try := 0; info != nil; try++ {
		a, err := sh.fetch(ctx, registry, *info)
		if !errors.Is(err, api.ErrNotFound) || try == fetchTries {
			return a, err
		}
		if info, shared, err = sh.sharedAgent(ctx, name); err != nil {
			return nil, err
		}
	}
	a, err := registry.Get(name)
	switch {
	case err != nil || !a.Shared():
		return a, err
	case !shared:
		return nil, fmt.Errorf("agent '%s': %w", name, errUnconfirmed)
	}
	// It was deleted on another host. The copy goes too; where it cannot, the next run says the same.
	_ = sh.deleteHere(registry, name)
	return nil, fmt.Errorf("%w: %q", agent.ErrNotFound, name)
}

func (sh *shell) fetch(ctx context.Context, registry *agent.Registry, info api.Agent) (*agent.Agent, error) {
	if a := registry.Copy(info); a != nil {
		return a, nil
	}
	c, err := sh.fleet(ctx)
	if err != nil {
		return nil, err
	}
	return registry.Fetch(ctx, info, func(to io.WriterAt) error { return c.Fetch(ctx, info, to) })
}

// publish puts a project into the shared store, for every host.
func (sh *shell) publish(ctx context.Context, m *agent.Manifest, dir string, old *api.Agent) error {
	source, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	p, err := agent.Pack(ctx, dir, m.Ignore)
	if err != nil {
		return err
	}
	defer p.Close()
	sh.noteSpecial(p.Special)
	done := "Deployed '%s' for all hosts of the store (%d files, %s; %s packed)"
	if old != nil && old.Digest == p.Digest && old.Source == source && old.Here {
		done = "'%s' is deployed as it is here (%d files, %s; %s packed)"
	} else {
		c, err := sh.fleet(ctx)
		if err != nil {
			return err
		}
		if _, err := c.Deploy(ctx, m.Name, p.Describe(m, source), p); err != nil {
			return fmt.Errorf("deploy '%s': %w", m.Name, err)
		}
	}
	sh.done(done, m.Name, p.Files, size(p.Bytes), size(p.Size))
	return nil
}

// checkSource refuses a folder that calls itself like an agent from elsewhere: it would be handed that agent's secrets.
func (sh *shell) checkSource(ctx context.Context, registry *agent.Registry, name, source string, other error) error {
	info, _, err := sh.sharedAgent(ctx, name)
	if err != nil {
		return fmt.Errorf("agent '%s': %w", name, err)
	}
	if info != nil && !(info.Here && info.Source == source) {
		return fmt.Errorf("agent '%s' %w: %s", name, other, escapeLine(origin(info.Source, info.Host, !info.Here)))
	}
	if info != nil {
		return nil
	}
	if old, err := registry.Get(name); err == nil && !old.Shared() && old.Source != source {
		return fmt.Errorf("agent '%s' %w: %s", name, other, old.Source)
	}
	return nil
}

// origin is where an agent came from, for people.
func origin(source, host string, elsewhere bool) string {
	if !elsewhere {
		return source
	}
	return host + ":" + source
}

// checkHostFiles refuses to show an agent from elsewhere what its manifest names of this host: who may deploy for all
// hosts is not thereby let into their files. Whoever starts the run can, by flags.
func (f *runFlags) checkHostFiles(a *agent.Agent, m *agent.Manifest) error {
	if !a.Elsewhere {
		return nil
	}
	given := map[string]bool{}
	for _, s := range f.mounts {
		if agent.CheckMount(s) == nil {
			given[parseMount(s).Destination] = true
		}
	}
	if m.Rootfs != "" && f.rootfs == "" {
		return fmt.Errorf("agent '%s' %w: rootfs %s", a.Name, errHostFiles, escapeLine(m.Rootfs))
	}
	for _, s := range m.Mounts {
		if !given[parseMount(s).Destination] {
			return fmt.Errorf("agent '%s' %w: mount %s", a.Name, errHostFiles, escapeLine(s))
		}
	}
	m.Mounts, m.Rootfs = nil, "" // the flags have what they named
	return nil
}
