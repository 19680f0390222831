// Package depot keeps the files of deployed agents where several hosts have them: an agent's record, and the parts of
// its snapshot, in a store of records that they share. Both are sealed for their place, so that whoever can write in
// the store can take an agent away, and cannot change one.
package depot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/store"
)

// Where things are in the store of records.
const (
	// AgentPrefix and the name of an agent are the key of its record.
	AgentPrefix = "agent/"
	// UploadPrefix, agent and snapshot are the key of a note that parts of the snapshot may lie in the store, while
	// no agent's record names it.
	UploadPrefix = "upload/"
	// SeenPrefix and an agent are the key of its highest version that this host saw. It is this host's own.
	SeenPrefix = "seen/"
	// keyKey is the record of the key that parts are sealed by. It outlives the root keys: parts are not sealed anew.
	keyKey = "key/agents"
)

// tries is how often a change is tried while other hosts change the same records.
const tries = 8

// errGone means that an upload took so long that another host has collected it.
var errGone = fmt.Errorf("this upload is not there any more: deploy again: %w", api.ErrNotFound)

// Config is what a Depot is made of.
type Config struct {
	// Records is the store of secrets, whose records are summed up.
	Records store.Store
	// Parts opens the store of parts, when the first is needed. The depot closes it.
	Parts func(context.Context) (store.Store, error)
	// Sealer seals the records.
	Sealer *seal.Sealer
	// Host tells this host from others.
	Host string
	// Now is the clock; nil is the system's.
	Now func() time.Time
	// Log is nil for none.
	Log *zap.Logger
}

// Depot is safe for concurrent use.
type Depot struct {
	c    Config
	busy chan struct{} // one a part under way

	mu    sync.Mutex
	parts store.Store
	cover *seal.Sealer // seals parts
	seen  map[string]uint64
}

// atOnce is how many parts are in memory at once.
const atOnce = 8

// New returns a depot; nothing is opened or made before the first deployment.
func New(c Config) *Depot {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	return &Depot{c: c, busy: make(chan struct{}, atOnce), seen: map[string]uint64{}}
}

// Close lets go of the store of parts. Nothing may be called after it.
func (d *Depot) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.parts == nil {
		return nil
	}
	return d.parts.Close()
}

// open returns the store of parts.
func (d *Depot) open(ctx context.Context) (store.Store, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.parts != nil {
		return d.parts, nil
	}
	s, err := d.c.Parts(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the store of agents: %w", err)
	}
	d.parts = s
	return s, nil
}

// state is what an agent's record says, sealed. A deletion leaves one that is Gone, which keeps the count: whoever puts
// back what was deleted is noticed.
type state struct {
	Gone     bool      `json:"gone,omitempty"`
	Snapshot string    `json:"snapshot"`
	Deployed time.Time `json:"deployed_at"`
	Host     string    `json:"host"`
	HostID   string    `json:"host_id,omitempty"` // "" from afar
	api.Deployment

	name     string
	version  uint64
	revision uint64
}

// record is an agent's record. The version is bound to the seal.
type record struct {
	Version uint64 `json:"version"`
	Sealed  []byte `json:"sealed"`
}

func agentPlace(storeID, name string, version uint64) seal.Place {
	return seal.Place{Store: storeID, Kind: "agent", Agent: name, Version: version}
}

// damaged words an integrity error; the first of its causes says what was done to the record.
func damaged(what string, err error) error {
	return fmt.Errorf("%s: %w: %w", what, api.ErrDamaged, err)
}

// load reads an agent's record, of a deleted agent too. There is none with revision 0.
func (d *Depot) load(ctx context.Context, name string) (state, error) {
	r, err := d.c.Records.Get(ctx, AgentPrefix+name)
	if errors.Is(err, store.ErrNotFound) {
		return state{name: name}, d.notBelow(ctx, name, 0)
	}
	if err != nil {
		return state{}, fmt.Errorf("read store: %w", err)
	}
	s, err := d.unseal(r)
	if err != nil {
		return s, err
	}
	return s, d.notBelow(ctx, name, s.version)
}

func (d *Depot) unseal(r store.Record) (state, error) {
	s := state{name: strings.TrimPrefix(r.Key, AgentPrefix), revision: r.Revision}
	what := fmt.Sprintf("agent %q", s.name)
	var rec record
	if err := json.Unmarshal(r.Value, &rec); err != nil {
		return s, damaged(what, seal.ErrSealed)
	}
	plain, err := d.c.Sealer.Open(agentPlace(d.c.Records.ID(), s.name, rec.Version), rec.Sealed)
	if err != nil {
		return s, damaged(what, err)
	}
	if err := json.Unmarshal(plain, &s); err != nil {
		return s, damaged(what, seal.ErrSealed)
	}
	s.version = rec.Version
	return s, nil
}

// change returns the change that stores s in the place of what it was loaded from.
func (d *Depot) change(s state) (store.Change, error) {
	plain, err := json.Marshal(s)
	if err != nil {
		return store.Change{}, fmt.Errorf("agent %q: %w", s.name, err)
	}
	rec := record{Version: s.version}
	if rec.Sealed, err = d.c.Sealer.Seal(agentPlace(d.c.Records.ID(), s.name, s.version), plain); err != nil {
		return store.Change{}, err
	}
	value, err := json.Marshal(rec)
	if err != nil {
		return store.Change{}, fmt.Errorf("agent %q: %w", s.name, err)
	}
	return store.Change{Key: AgentPrefix + s.name, Value: value, Base: s.revision}, nil
}

// notBelow refuses a version that is older than one which this host saw, and remembers one that is newer: the sum over
// all records is only compared when a daemon starts.
func (d *Depot) notBelow(ctx context.Context, name string, version uint64) error {
	d.mu.Lock()
	last, known := d.seen[name]
	d.mu.Unlock()
	var base uint64
	if !known || version > last {
		r, err := d.c.Records.Get(ctx, SeenPrefix+name)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("read store: %w", err)
		}
		stored, _ := strconv.ParseUint(string(r.Value), 10, 64)
		last, base = max(last, stored), r.Revision
	}
	if version < last {
		return damaged(fmt.Sprintf("agent %q", name), fmt.Errorf("it was rolled back: version %d, where this host saw %d", version, last))
	}
	if version > last {
		change := store.Change{Key: SeenPrefix + name, Value: strconv.AppendUint(nil, version, 10), Base: base}
		// In a conflict another question has just stored the same; after another error it is kept in memory.
		if err := d.c.Records.Apply(ctx, []store.Change{change}); err != nil && !errors.Is(err, store.ErrConflict) {
			d.c.Log.Warn("cannot remember an agent's version", zap.Error(err))
		}
	}
	if version > 0 {
		d.mu.Lock()
		d.seen[name] = max(d.seen[name], version)
		d.mu.Unlock()
	}
	return nil
}

// below returns what a change of an agent builds on. A record that is damaged is replaced like any other, but for its
// parts, which nobody can find any more: to deploy again is the way out.
func (d *Depot) below(ctx context.Context, name string) (state, error) {
	s, err := d.load(ctx, name)
	if !errors.Is(err, api.ErrDamaged) {
		return s, err
	}
	d.c.Log.Error("an agent's record is replaced", zap.String("agent", name), zap.Error(err))
	r, err := d.c.Records.Get(ctx, SeenPrefix+name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return s, fmt.Errorf("read store: %w", err)
	}
	seen, _ := strconv.ParseUint(string(r.Value), 10, 64)
	return state{Gone: true, name: name, version: max(seen, s.version), revision: s.revision}, nil
}

// Forget lets go of the versions that this host saw: for a store that was rolled back on purpose.
func (d *Depot) Forget(ctx context.Context) error {
	all, err := store.List(ctx, d.c.Records, SeenPrefix)
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	for _, r := range all {
		if err := d.c.Records.Apply(ctx, []store.Change{{Key: r.Key, Delete: true, Base: r.Revision}}); err != nil {
			return fmt.Errorf("forget agents' versions: %w", err)
		}
	}
	return nil
}

// Saw notes an agent's version after somebody changed it.
func (d *Depot) Saw(ctx context.Context, name string) error {
	_, err := d.load(ctx, name)
	return err
}

// agent is what the caller sees of s.
func (d *Depot) agent(s state) api.Agent {
	a := api.Agent{Name: s.name, Version: s.version, Snapshot: s.Snapshot, Deployed: s.Deployed, Host: s.Host, Here: s.HostID == d.c.Host, Deployment: s.Deployment}
	a.Sums = nil
	return a
}

// Get returns one agent. The error wraps api.ErrNotFound or api.ErrDamaged.
func (d *Depot) Get(ctx context.Context, name string) (api.Agent, error) {
	s, err := d.live(ctx, name)
	if err != nil {
		return api.Agent{}, err
	}
	return d.agent(s), nil
}

// live loads an agent that is deployed.
func (d *Depot) live(ctx context.Context, name string) (state, error) {
	if err := api.CheckAgent(name); err != nil {
		return state{}, err
	}
	s, err := d.load(ctx, name)
	if err == nil && (s.revision == 0 || s.Gone) {
		err = fmt.Errorf("agent %q: %w", name, api.ErrNotFound)
	}
	return s, err
}

// List returns all agents, by name. One that cannot be trusted fails the list: nobody may miss it in silence.
func (d *Depot) List(ctx context.Context) ([]api.Agent, error) {
	records, err := store.List(ctx, d.c.Records, AgentPrefix)
	if err != nil {
		return nil, fmt.Errorf("read store: %w", err)
	}
	var all []api.Agent
	for _, r := range records {
		s, err := d.unseal(r)
		if err == nil {
			err = d.notBelow(ctx, s.name, s.version)
		}
		if err != nil {
			return nil, err
		}
		if !s.Gone {
			all = append(all, d.agent(s))
		}
	}
	return all, nil
}

// Delete takes an agent away, one that cannot be trusted too. record is called before that is done, and can refuse it. The error wraps api.ErrNotFound.
func (d *Depot) Delete(ctx context.Context, name string, record func(digest string) error) error {
	recorded := false
	return d.retry(func() error {
		s, err := d.live(ctx, name)
		if errors.Is(err, api.ErrDamaged) {
			s, err = d.below(ctx, name)
		}
		if err != nil {
			return err
		}
		if !recorded {
			if err := record(s.Digest); err != nil {
				return err
			}
			recorded = true
		}
		old := s
		s = state{Gone: true, name: name, version: old.version + 1, revision: old.revision}
		return d.replace(ctx, old, s)
	})
}

// retry tries a change again while other hosts come between.
func (d *Depot) retry(change func() error) error {
	err := change()
	for try := 1; try < tries && errors.Is(err, store.ErrConflict); try++ {
		err = change()
	}
	return err
}

// replace stores s for old, with a note on the parts that old leaves, and more changes.
func (d *Depot) replace(ctx context.Context, old, s state, more ...store.Change) error {
	change, err := d.change(s)
	if err != nil {
		return err
	}
	changes := append(more, change)
	if old.revision > 0 && !old.Gone {
		left, err := d.noteChange(note{agent: old.name, snapshot: old.Snapshot, Dead: true, Begun: d.c.Now().UTC(), Deployment: old.Deployment})
		if err != nil {
			return err
		}
		changes = append(changes, left)
	}
	if err := d.c.Records.Apply(ctx, changes); err != nil {
		return fmt.Errorf("store agent: %w", err)
	}
	if err := d.notBelow(ctx, s.name, s.version); err != nil {
		d.c.Log.Warn("cannot remember an agent's version", zap.Error(err))
	}
	return nil
}

// Again seals a record of the depot's under another root key, or reports that it is none.
func Again(storeID string, r store.Record, from, to *seal.Sealer) (value []byte, ours bool, err error) {
	again := func(p seal.Place, sealed []byte) ([]byte, error) {
		plain, err := from.Open(p, sealed)
		if err != nil {
			return nil, err
		}
		return to.Seal(p, plain)
	}
	switch {
	case strings.HasPrefix(r.Key, AgentPrefix):
		var rec record
		if err := json.Unmarshal(r.Value, &rec); err != nil {
			return nil, true, seal.ErrSealed
		}
		rec.Sealed, err = again(agentPlace(storeID, strings.TrimPrefix(r.Key, AgentPrefix), rec.Version), rec.Sealed)
		if err != nil {
			return nil, true, err
		}
		value, err = json.Marshal(rec)
	case strings.HasPrefix(r.Key, UploadPrefix):
		agent, snapshot, _ := strings.Cut(strings.TrimPrefix(r.Key, UploadPrefix), "/")
		value, err = again(notePlace(storeID, agent, snapshot), r.Value)
	case r.Key == keyKey:
		value, err = again(keyPlace(storeID), r.Value)
	default:
		return nil, false, nil
	}
	return value, true, err
}
