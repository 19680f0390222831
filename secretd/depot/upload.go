package depot

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/failpoint"
	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/store"
)

// A deployment is a note, the parts, and then one change that puts the agent's record in place, takes the note away and
// leaves another one on the parts of before. Whatever ends in between leaves a note, by which the parts are found: no
// store has to be searched for them.

// note is what an upload's record says, sealed.
type note struct {
	Begun time.Time `json:"begun"`
	// Dead is true when no agent's record may name the snapshot any more.
	Dead bool `json:"dead,omitempty"`
	api.Deployment

	agent, snapshot string
	revision        uint64
}

func (n note) key() string { return UploadPrefix + n.agent + "/" + n.snapshot }

func notePlace(storeID, agent, snapshot string) seal.Place {
	return seal.Place{Store: storeID, Kind: "upload", Agent: agent, Name: snapshot}
}

func (d *Depot) noteChange(n note) (store.Change, error) {
	plain, err := json.Marshal(n)
	if err != nil {
		return store.Change{}, fmt.Errorf("upload: %w", err)
	}
	value, err := d.c.Sealer.Seal(notePlace(d.c.Records.ID(), n.agent, n.snapshot), plain)
	return store.Change{Key: n.key(), Value: value, Base: n.revision}, err
}

func (d *Depot) openNote(r store.Record) (note, error) {
	agent, snapshot, _ := strings.Cut(strings.TrimPrefix(r.Key, UploadPrefix), "/")
	n := note{agent: agent, snapshot: snapshot, revision: r.Revision}
	plain, err := d.c.Sealer.Open(notePlace(d.c.Records.ID(), agent, snapshot), r.Value)
	if err == nil {
		err = json.Unmarshal(plain, &n)
	}
	if err != nil {
		return n, damaged("upload for agent "+agent, err)
	}
	return n, nil
}

// upload loads the note of an upload that goes on.
func (d *Depot) upload(ctx context.Context, agent, snapshot string) (note, error) {
	if err := api.CheckAgent(agent); err != nil {
		return note{}, err
	}
	if !plainName(snapshot) {
		return note{}, errGone
	}
	r, err := d.c.Records.Get(ctx, note{agent: agent, snapshot: snapshot}.key())
	if errors.Is(err, store.ErrNotFound) {
		return note{}, errGone
	}
	if err != nil {
		return note{}, fmt.Errorf("read store: %w", err)
	}
	n, err := d.openNote(r)
	if err == nil && n.Dead {
		err = errGone
	}
	return n, err
}

// plainName reports whether a name is one that we drew.
func plainName(name string) bool {
	return len(name) == len(rand.Text()) && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// Begin notes that a snapshot is to come, and returns its name.
func (d *Depot) Begin(ctx context.Context, agent string, what api.Deployment) (string, error) {
	if err := errors.Join(api.CheckAgent(agent), what.Check()); err != nil {
		return "", err
	}
	n := note{Begun: d.c.Now().UTC(), Deployment: what, agent: agent, snapshot: rand.Text()}
	change, err := d.noteChange(n)
	if err != nil {
		return "", err
	}
	if err := d.c.Records.Apply(ctx, []store.Change{change}); err != nil {
		return "", fmt.Errorf("store upload: %w", err)
	}
	failpoint.Hit("upload begun")
	return n.snapshot, nil
}

func partKey(snapshot string, n int) string { return fmt.Sprintf("%s/%03d", snapshot, n) }

func (d *Depot) partPlace(agent, snapshot string, n int) seal.Place {
	return seal.Place{Store: d.c.Records.ID(), Kind: "part", Agent: agent, Name: partKey(snapshot, n)}
}

// Put stores one part of an upload. The same part may come twice.
func (d *Depot) Put(ctx context.Context, agent, snapshot string, n int, part []byte) error {
	leave, err := d.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	up, err := d.upload(ctx, agent, snapshot)
	if err != nil {
		return err
	}
	if n < 0 || n >= up.Parts() || !isSum(part, up.Sums[n]) {
		return fmt.Errorf("part %d: %w: it is not what was announced", n, api.ErrInvalid)
	}
	parts, cover, err := d.both(ctx)
	if err != nil {
		return err
	}
	sealed, err := cover.Seal(d.partPlace(agent, snapshot, n), part)
	if err != nil {
		return err
	}
	key := partKey(snapshot, n)
	err = d.retry(func() error {
		err := parts.Apply(ctx, []store.Change{{Key: key, Value: sealed}})
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
		// It is there, or the store cannot tell a change of other records from one of this.
		if _, got := parts.Get(ctx, key); got == nil {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("store part: %w", err)
	}
	failpoint.Hit("part stored")
	if _, err = d.upload(ctx, agent, snapshot); errors.Is(err, errGone) {
		// It was given up while we wrote, and who removed its parts did not see this one.
		return errors.Join(err, removePart(ctx, parts, store.Change{Key: key, Delete: true, Base: 1}))
	}
	return err
}

// enter waits for room for one part.
func (d *Depot) enter(ctx context.Context) (leave func(), err error) {
	select {
	case d.busy <- struct{}{}:
		return func() { <-d.busy }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("too many agents are deployed and fetched at once: %w", ctx.Err())
	}
}

func isSum(part, sum []byte) bool {
	got := sha256.Sum256(part)
	return subtle.ConstantTimeCompare(got[:], sum) == 1
}

// Commit makes an upload, all of whose parts were stored, the agent's snapshot: from then on every host has it, and
// none the one before. record is called before that is done, and can refuse it. here is false for who deploys from
// afar, whose name is host then.
func (d *Depot) Commit(ctx context.Context, agent, snapshot, host string, here bool, record func(digest string) error) (api.Agent, error) {
	var s state
	recorded := false
	err := d.retry(func() error {
		up, err := d.upload(ctx, agent, snapshot)
		if err != nil {
			return err
		}
		old, err := d.below(ctx, agent)
		if err != nil {
			return err
		}
		if !recorded {
			if err := record(up.Digest); err != nil {
				return err
			}
			recorded = true
		}
		s = state{
			Snapshot: snapshot, Deployed: d.c.Now().UTC(), Host: host, Deployment: up.Deployment,
			name: agent, version: old.version + 1, revision: old.revision,
		}
		if here {
			s.HostID = d.c.Host
		}
		return d.replace(ctx, old, s, store.Change{Key: up.key(), Delete: true, Base: up.revision})
	})
	if err != nil {
		return api.Agent{}, err
	}
	failpoint.Hit("agent replaced")
	return d.agent(s), nil
}

// Part returns one part of an agent's snapshot. The error wraps api.ErrNotFound where the agent has another snapshot by
// now, and api.ErrDamaged.
func (d *Depot) Part(ctx context.Context, agent, snapshot string, n int) ([]byte, error) {
	leave, err := d.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	s, err := d.live(ctx, agent)
	if err != nil {
		return nil, err
	}
	if s.Snapshot != snapshot || n < 0 || n >= s.Parts() || len(s.Sums) != s.Parts() {
		return nil, fmt.Errorf("snapshot of agent %q: %w: it was deployed again", agent, api.ErrNotFound)
	}
	parts, cover, err := d.both(ctx)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("part %d of %d of agent %q", n+1, s.Parts(), agent)
	r, err := parts.Get(ctx, partKey(snapshot, n))
	if errors.Is(err, store.ErrNotFound) {
		if now, err := d.live(ctx, agent); err != nil || now.Snapshot != snapshot {
			return nil, errors.Join(err, fmt.Errorf("snapshot of agent %q: %w: it was deployed again", agent, api.ErrNotFound))
		}
		return nil, damaged(what, errors.New("it is missing"))
	}
	if err != nil {
		return nil, fmt.Errorf("read store: %w", err)
	}
	part, err := cover.Open(d.partPlace(agent, snapshot, n), r.Value)
	if err != nil {
		return nil, damaged(what, err)
	}
	if !isSum(part, s.Sums[n]) {
		return nil, damaged(what, errors.New("its sum is another"))
	}
	return part, nil
}

// both returns the store of parts and what seals them.
func (d *Depot) both(ctx context.Context) (store.Store, *seal.Sealer, error) {
	parts, err := d.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	d.mu.Lock()
	cover := d.cover
	d.mu.Unlock()
	if cover != nil {
		return parts, cover, nil
	}
	err = d.retry(func() (err error) {
		cover, err = d.loadCover(ctx)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("key of agents: %w", err)
	}
	d.mu.Lock()
	d.cover = cover
	d.mu.Unlock()
	return parts, cover, nil
}

func keyPlace(storeID string) seal.Place { return seal.Place{Store: storeID, Kind: keyKey} }

// loadCover reads the key of parts, which the first who deploys draws.
func (d *Depot) loadCover(ctx context.Context) (*seal.Sealer, error) {
	place := keyPlace(d.c.Records.ID())
	r, err := d.c.Records.Get(ctx, keyKey)
	var key []byte
	switch {
	case errors.Is(err, store.ErrNotFound):
		key = make([]byte, seal.KeySize)
		_, _ = rand.Read(key)
		sealed, err := d.c.Sealer.Seal(place, key)
		if err != nil {
			return nil, err
		}
		if err := d.c.Records.Apply(ctx, []store.Change{{Key: keyKey, Value: sealed}}); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		if key, err = d.c.Sealer.Open(place, r.Value); err != nil {
			return nil, damaged("it", err)
		}
	}
	defer locked.Wipe(key)
	return seal.New(key)
}
