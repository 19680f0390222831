package secretd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/depot"
	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/bolt"
	"github.com/superserve/superserve/secretd/store/split"
)

// A store that several hosts share has the secrets and the root key. Grants and times of
// use stay in a file of this host: they would be of no use elsewhere, and every run would
// write where every host reads.

// followPause is the time between two attempts to follow a shared store.
const followPause = 500 * time.Millisecond

// errRekeyed ends a daemon: what it has sealed by is not the store's key any more.
var errRekeyed = errors.New("the shared store was given another key: start again with it")

func ownKey(key string) bool {
	return strings.HasPrefix(key, grantPrefix) || strings.HasPrefix(key, usedPrefix) || strings.HasPrefix(key, depot.SeenPrefix)
}

// openStore opens the records: one file, or the shared store and a file beside.
func (d *Daemon) openStore(ctx context.Context) (store.Store, error) {
	if d.cfg.Shared == nil {
		return bolt.Open(d.storePath())
	}
	shared, err := d.cfg.Shared(ctx)
	if err != nil {
		return nil, err
	}
	local, err := bolt.Open(d.storePath())
	if err != nil {
		return nil, errors.Join(err, shared.Close())
	}
	d.watched, d.hostID = shared, local.ID()
	return split.New(shared, local, ownKey), nil
}

// unlockShared unlocks the store; where another host makes it at this very moment, again.
func (d *Daemon) unlockShared(ctx context.Context) error {
	err := d.unlock(ctx)
	for try := 1; d.watched != nil && try < 5 && errors.Is(err, store.ErrConflict); try++ {
		err = d.unlock(ctx)
	}
	return err
}

// follow hears what other hosts change in a shared store, until the daemon ends. While it
// cannot, nothing is taken from memory.
func (d *Daemon) follow() {
	for d.ctx.Err() == nil {
		err := d.watched.Watch(d.ctx, d.changedElsewhere)
		d.blind.Store(true)
		d.ledger.Touch()
		if d.ctx.Err() != nil {
			return
		}
		d.log.Warn("cannot follow the shared store", zap.Error(err))
		select {
		case <-d.ctx.Done():
		case <-time.After(followPause):
		}
	}
}

// changedElsewhere tells the runs of this host about changes in the shared store, its own
// included; without keys of whatever may have happened before.
func (d *Daemon) changedElsewhere(keys []string) {
	d.ledger.Touch()
	if len(keys) == 0 {
		keys = append(d.heldKeys(), rootKey)
		d.blind.Store(false)
		d.askTend()
	}
	for _, key := range keys {
		switch {
		case key == rootKey:
			d.checkRoot()
		case strings.HasPrefix(key, secretPrefix):
			d.changedSecret(key)
		case strings.HasPrefix(key, depot.AgentPrefix):
			d.changedAgent(strings.TrimPrefix(key, depot.AgentPrefix))
		}
	}
}

// heldKeys returns the keys of the secrets that grants are about.
func (d *Daemon) heldKeys() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	held := make(map[string]bool)
	var keys []string
	for _, g := range d.grants {
		for i := range g.Granted {
			if key := secretKey(g.Agent, g.Granted[i].Name); !held[key] {
				held[key] = true
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// changedSecret tells the runs that hold a secret. A deletion cuts their streams: whether
// it was asked to does not cross hosts, and less would be too little.
func (d *Daemon) changedSecret(key string) {
	agent, name, _ := splitKey(key)
	_, err := d.load(d.ctx, agent, name)
	if errors.Is(err, api.ErrNotFound) {
		d.tell(agent, api.Change{Name: name, Kind: api.Revoked, Cut: true})
		return
	}
	d.tell(agent, api.Change{Name: name, Kind: api.Rotated})
}

// checkRoot ends the daemon when the root key is not its own any more.
func (d *Daemon) checkRoot() {
	r, err := d.store.Get(d.ctx, rootKey)
	if err != nil || string(r.Value) == string(d.rootRecord) {
		return // an error is another's to report
	}
	select {
	case d.fatal <- fmt.Errorf("follow the shared store: %w", errRekeyed):
	default:
	}
}
