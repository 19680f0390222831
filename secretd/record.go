package secretd

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"time"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/preset"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/store"
)

// Keys in the store. Agents and names hold no slash.
const (
	secretPrefix = "secret/"
	grantPrefix  = "grant/"
	usedPrefix   = "used/"
)

func secretKey(agent, name string) string { return secretPrefix + agent + "/" + name }

func splitKey(key string) (agent, name string, ok bool) {
	return strings.Cut(strings.TrimPrefix(key, secretPrefix), "/")
}

// secret is a stored secret. All but Sealed is in clear, and all of it but SetAt is
// bound to Sealed: who changes it in the store cannot open the value any more.
type secret struct {
	// Origin is drawn when a name is set for the first time after it was free: a
	// grant on a deleted secret does not come back to life with its name.
	Origin  string      `json:"origin"`
	Version uint64      `json:"version"`
	SetAt   time.Time   `json:"set_at"`
	Binding api.Binding `json:"binding"`
	// Derived is true when the binding came from the value itself.
	Derived bool   `json:"derived,omitempty"`
	Sealed  []byte `json:"sealed"`
	// Expires is when the provider ends the value. It is a hint for the agent's files, and
	// not bound to Sealed.
	Expires time.Time `json:"expires,omitzero"`

	agent, name string
	revision    uint64   // of the record; 0 when there is none yet
	sum         [32]byte // SHA-256 of the record as it lay in the store
}

func (d *Daemon) place(s *secret) (seal.Place, error) {
	binding, err := json.Marshal(struct {
		Binding api.Binding
		Derived bool
	}{s.Binding, s.Derived})
	if err != nil {
		return seal.Place{}, fmt.Errorf("secret %q: %w", s.name, err)
	}
	return seal.Place{
		Store: d.store.ID(), Kind: "secret", Agent: s.agent, Name: s.name + "/" + s.Origin,
		Version: s.Version, Binding: sha256.Sum256(binding),
	}, nil
}

// load reads one secret. The error wraps api.ErrNotFound when there is none.
func (d *Daemon) load(ctx context.Context, agent, name string) (*secret, error) {
	r, err := d.store.Get(ctx, secretKey(agent, name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("secret %q of agent %q: %w", name, agent, api.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read store: %w", err)
	}
	return parseSecret(r)
}

// loaded is a secret as it was read, and when that was in the ledger's count.
type loaded struct {
	secret *secret
	writes uint64
}

// loadForUse reads a secret as load does, or takes it from memory when the store has not
// changed since. It is shared, and read-only.
func (d *Daemon) loadForUse(ctx context.Context, agent, name string) (*secret, error) {
	key, writes := secretKey(agent, name), d.ledger.Writes()
	d.mu.Lock()
	last, ok := d.loaded[key]
	d.mu.Unlock()
	if ok && last.writes == writes && !d.blind.Load() {
		return last.secret, nil
	}
	s, err := d.load(ctx, agent, name)
	if err != nil || d.blind.Load() || writes%2 == 1 || d.ledger.Writes() != writes {
		return s, err
	}
	d.mu.Lock()
	d.loaded[key] = loaded{s, writes}
	d.mu.Unlock()
	return s, nil
}

func parseSecret(r store.Record) (*secret, error) {
	agent, name, ok := splitKey(r.Key)
	s := &secret{agent: agent, name: name, revision: r.Revision, sum: sha256.Sum256(r.Value)}
	if err := json.Unmarshal(r.Value, s); err != nil || !ok {
		return nil, fmt.Errorf("record %q is damaged", r.Key)
	}
	return s, nil
}

// loadAll reads an agent's secrets, sorted by name.
func (d *Daemon) loadAll(ctx context.Context, agent string) ([]*secret, error) {
	records, err := store.List(ctx, d.store, secretKey(agent, ""))
	if err != nil {
		return nil, fmt.Errorf("read store: %w", err)
	}
	all := make([]*secret, 0, len(records))
	for _, r := range records {
		s, err := parseSecret(r)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// openValue decrypts the value, which is the caller's to wipe.
func (d *Daemon) openValue(s *secret) ([]byte, error) {
	place, err := d.place(s)
	if err != nil {
		return nil, err
	}
	value, err := d.sealer.Open(place, s.Sealed)
	if err != nil {
		return nil, fmt.Errorf("open secret %q of agent %q: %w", s.name, s.agent, err)
	}
	return value, nil
}

// held is the value of a secret that live grants use: one copy for all of them.
type held struct {
	sum   [32]byte
	value []byte // locked.Copy
}

// value decrypts a secret for the live grants. The same record gives the same buffer,
// so that uses leave no copies behind; a record that changed in any way is decrypted
// anew, which its place in the store has to allow. The buffer is the daemon's. It is kept
// unless the store has changed since it had counted writes, which is before s was read: a
// change or an end that has let go of the value must not find it here again.
func (d *Daemon) value(s *secret, writes uint64) ([]byte, error) {
	key := secretKey(s.agent, s.name)
	d.mu.Lock()
	h, ok := d.values[key]
	d.mu.Unlock()
	if ok && h.sum == s.sum {
		return h.value, nil
	}
	plain, err := d.openValue(s)
	if err != nil {
		return nil, err
	}
	defer locked.Wipe(plain)
	h = held{sum: s.sum, value: locked.Copy(plain)}
	d.mu.Lock()
	if d.ledger.Writes() == writes && d.inUse(s.agent, s.name) {
		d.values[key] = h
	}
	d.mu.Unlock()
	return h.value, nil
}

// letGo forgets the values of secrets that changed or that no grant uses any more,
// and has the collector wipe them now: on an idle daemon it comes every two minutes.
func (d *Daemon) letGo(unused func(key string) bool) {
	d.mu.Lock()
	before := len(d.values)
	maps.DeleteFunc(d.values, func(key string, _ held) bool { return unused(key) })
	maps.DeleteFunc(d.loaded, func(key string, _ loaded) bool { return unused(key) })
	gone := before - len(d.values)
	d.mu.Unlock()
	if gone == 0 {
		return
	}
	runtime.GC()
	// An answer under way may have kept one alive: once more, when it is over.
	if d.collecting.CompareAndSwap(false, true) {
		time.AfterFunc(time.Second, func() {
			d.collecting.Store(false)
			runtime.GC()
		})
	}
}

// seal encrypts value into s, after its other fields were set, and returns the
// change that stores it.
func (d *Daemon) seal(s *secret, value []byte) (store.Change, error) {
	if s.Origin == "" {
		s.Origin = rand.Text()
	}
	place, err := d.place(s)
	if err != nil {
		return store.Change{}, err
	}
	if s.Sealed, err = d.sealer.Seal(place, value); err != nil {
		return store.Change{}, err
	}
	record, err := json.Marshal(s)
	if err != nil {
		return store.Change{}, fmt.Errorf("secret %q: %w", s.name, err)
	}
	return store.Change{Key: secretKey(s.agent, s.name), Value: record, Base: s.revision}, nil
}

// effective returns the binding that applies without an override: the stored one,
// else the preset of the name.
func (s *secret) effective() api.Binding {
	if s.Binding.Bound() {
		return s.Binding
	}
	b, _ := preset.For(s.name)
	return b
}

// markUsed notes the time of a use; storeUsed writes it with others.
func (d *Daemon) markUsed(agent, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.used[agent+"/"+name] = time.Now().UTC()
}

// lastUsed returns when a secret was last resolved, or zero.
func (d *Daemon) lastUsed(ctx context.Context, agent, name string) time.Time {
	d.mu.Lock()
	at, ok := d.used[agent+"/"+name]
	d.mu.Unlock()
	if ok {
		return at
	}
	r, err := d.store.Get(ctx, usedPrefix+agent+"/"+name)
	if err != nil || at.UnmarshalText(r.Value) != nil {
		return time.Time{}
	}
	return at
}

// storeUsed writes the times of use. They are a convenience, written when a run
// ends and not on the path of a request, so an error costs only them.
func (d *Daemon) storeUsed() {
	d.mu.Lock()
	used := d.used
	d.used = make(map[string]time.Time)
	d.mu.Unlock()
	var changes []store.Change
	for key, at := range used {
		text, err := at.MarshalText()
		if err != nil {
			continue
		}
		r, _ := d.store.Get(context.Background(), usedPrefix+key)
		changes = append(changes, store.Change{Key: usedPrefix + key, Value: text, Base: r.Revision})
	}
	_ = d.store.Apply(context.Background(), changes)
}
