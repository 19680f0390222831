package secretd

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/audit"
	"github.com/superserve/superserve/secretd/depot"
)

// The verbs of agents' files, which lie in a store that hosts share. In a store of this
// host's own there are none: the files are beside it, and superserve's.

// raw is a reply that is no JSON.
type raw []byte

// openDepot makes the depot of a shared store.
func (d *Daemon) openDepot(ctx context.Context) error {
	d.tend = make(chan struct{}, 1)
	if d.cfg.SharedParts == nil {
		return nil
	}
	name, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("this host's name: %w", err)
	}
	d.host = name
	d.depot = depot.New(depot.Config{Records: d.store, Parts: d.cfg.SharedParts, Sealer: d.sealer, Host: d.hostID, Log: d.log})
	if d.accepted {
		if err := d.depot.Forget(ctx); err != nil {
			return err
		}
	}
	d.askTend()
	return nil
}

// tendAgents tidies up when it is asked to, until the daemon ends. A daemon that does not
// serve, to change the key for example, leaves all as it is.
func (d *Daemon) tendAgents() {
	for {
		select {
		case <-d.tend:
			d.depot.Tend(d.ctx)
		case <-d.ctx.Done():
			return
		}
	}
}

// askTend has what deployments left tidied up, soon.
func (d *Daemon) askTend() {
	select {
	case d.tend <- struct{}{}:
	default: // asked already
	}
}

// changedAgent notes what another host has deployed: an older one is refused from now on.
func (d *Daemon) changedAgent(name string) {
	if d.depot == nil {
		return
	}
	if err := d.depot.Saw(d.ctx, name); err != nil && d.ctx.Err() == nil {
		d.log.Error("agent", zap.Error(err))
	}
}

// shares returns the depot. The error wraps api.ErrLocal where there is none.
func (d *Daemon) shares() (*depot.Depot, error) {
	if d.depot == nil {
		return nil, fmt.Errorf("this secretd has a store of its own: %w", api.ErrLocal)
	}
	return d.depot, nil
}

func (d *Daemon) listAgents(ctx context.Context, _ *exchange) (any, error) {
	shared, err := d.shares()
	if err != nil {
		return nil, err
	}
	all, err := shared.List(ctx)
	return api.AgentsReply{Agents: all}, err
}

func (d *Daemon) getAgent(ctx context.Context, c *exchange) (any, error) {
	shared, err := d.shares()
	if err != nil {
		return nil, err
	}
	return shared.Get(ctx, c.PathValue("agent"))
}

func (d *Daemon) deleteAgent(ctx context.Context, c *exchange) (any, error) {
	shared, err := d.shares()
	if err != nil {
		return nil, err
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	defer d.askTend()
	return struct{}{}, shared.Delete(ctx, c.PathValue("agent"), d.recorder(c, "undeploy"))
}

// recorder records a verb that is about a snapshot.
func (d *Daemon) recorder(c *exchange, verb string) func(digest string) error {
	return func(digest string) error {
		return d.record(c.who, audit.Event{Verb: verb, Agent: c.PathValue("agent"), Digest: digest})
	}
}

func (d *Daemon) beginSnapshot(ctx context.Context, c *exchange) (any, error) {
	shared, err := d.shares()
	if err != nil {
		return nil, err
	}
	var what api.Deployment
	if err := c.decode(&what); err != nil {
		return nil, err
	}
	snapshot, err := shared.Begin(ctx, c.PathValue("agent"), what)
	return api.SnapshotReply{Snapshot: snapshot}, err
}

func (d *Daemon) putPart(ctx context.Context, c *exchange) (any, error) {
	shared, err := d.shares()
	if err != nil {
		return nil, err
	}
	n, err := partOf(c)
	if err != nil {
		return nil, err
	}
	return struct{}{}, shared.Put(ctx, c.PathValue("agent"), c.PathValue("snapshot"), n, c.body)
}

func (d *Daemon) getPart(ctx context.Context, c *exchange) (any, error) {
	shared, err := d.shares()
	if err != nil {
		return nil, err
	}
	n, err := partOf(c)
	if err != nil {
		return nil, err
	}
	part, err := shared.Part(ctx, c.PathValue("agent"), c.PathValue("snapshot"), n)
	return raw(part), err
}

// partOf reads the number of a part.
func partOf(c *exchange) (int, error) {
	n, err := strconv.ParseUint(c.PathValue("part"), 10, 16)
	if err != nil {
		return 0, fmt.Errorf("part: %w: give its number", api.ErrInvalid)
	}
	return int(n), nil
}

func (d *Daemon) commitSnapshot(ctx context.Context, c *exchange) (any, error) {
	shared, err := d.shares()
	if err != nil {
		return nil, err
	}
	host, here := d.host, c.who.remote == ""
	if !here {
		host, _, _ = strings.Cut(c.who.remote, "@")
	}
	d.changing.Lock()
	defer d.changing.Unlock()
	defer d.askTend()
	return shared.Commit(ctx, c.PathValue("agent"), c.PathValue("snapshot"), host, here, d.recorder(c, "deploy"))
}

func (d *Daemon) abortSnapshot(ctx context.Context, c *exchange) (any, error) {
	shared, err := d.shares()
	if err != nil {
		return nil, err
	}
	return struct{}{}, shared.Abort(ctx, c.PathValue("agent"), c.PathValue("snapshot"))
}
