// Package vault is a store that several hosts share: the key-value engine, version 2, of an
// OpenBao or Vault server.
//
// The engine changes one document at a time, so one document, the index, says which records
// there are: a change writes the new contents under names that were never used, then the
// index by check-and-set. What the index does not name is not there. The engine's default
// limit of a document makes that some 4,000 records.
package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/superserve/superserve/secretd/bao"
	"github.com/superserve/superserve/secretd/store"
)

// poll is the time between two looks at the index's version.
const poll = time.Second

// tries is how often a change is tried while other hosts change other records.
const tries = 40

// Config says where the store is.
type Config struct {
	Server bao.Server
	// Mount is the engine's path; Prefix is the path below it that the store has for itself.
	Mount, Prefix string
}

// Store is a store.Watcher in a key-value engine.
type Store struct {
	c  Config
	id string
}

// index is the document that says what is there.
type index struct {
	ID      string           `json:"id"`
	Records map[string]entry `json:"records"`
	version int              // the engine's, 0 when there is none yet
}

// entry is one record: where its content is, and its revision.
type entry struct {
	Content  string `json:"content"`
	Revision uint64 `json:"revision"`
}

// document is what the engine answers with.
type document[T any] struct {
	Data     T `json:"data"`
	Metadata struct {
		Version int `json:"version"`
	} `json:"metadata"`
}

type content struct {
	Value []byte `json:"value"`
}

// Open reads the index, or makes it where there is none.
func Open(ctx context.Context, c Config) (*Store, error) {
	s := &Store{c: c}
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("open key-value engine: %w", err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if err := s.c.Server.Check(); err != nil {
		return err
	}
	if s.c.Mount == "" || s.c.Prefix == "" {
		return errors.New("the mount or the path of the store is missing")
	}
	x, err := s.index(ctx)
	if err == nil && x.version == 0 {
		err = s.write(ctx, "index", 0, index{ID: rand.Text(), Records: map[string]entry{}})
		if err == nil || errors.Is(err, store.ErrConflict) { // another host was first
			x, err = s.index(ctx)
		}
	}
	if err != nil {
		return err
	}
	if x.ID == "" {
		return fmt.Errorf("the index has no name: %w", store.ErrDamaged)
	}
	s.id = x.ID
	return nil
}

// ID returns the store's own name.
func (s *Store) ID() string { return s.id }

func (s *Store) path(kind, name string) string {
	return s.c.Mount + "/" + kind + "/" + s.c.Prefix + "/" + name
}

// index reads the index; before there is a store, one that is not there has version 0.
func (s *Store) index(ctx context.Context) (index, error) {
	var d document[index]
	status, err := s.c.Server.Call(ctx, http.MethodGet, s.path("data", "index"), nil, &d)
	switch {
	case err != nil:
		return index{}, fmt.Errorf("read index: %w", err)
	case status == http.StatusNotFound && s.id != "":
		return index{}, fmt.Errorf("read index: it is gone: %w", store.ErrDamaged)
	case status == http.StatusNotFound:
		return index{}, nil
	case status != http.StatusOK:
		return index{}, fmt.Errorf("read index: %w", bao.Refusal(status))
	case d.Metadata.Version < 1 || s.id != "" && d.Data.ID != s.id:
		return index{}, fmt.Errorf("read index: it is another store's: %w", store.ErrDamaged)
	}
	d.Data.version = d.Metadata.Version
	if d.Data.Records == nil {
		d.Data.Records = map[string]entry{}
	}
	return d.Data, nil
}

// write writes a document whose version is the given one.
func (s *Store) write(ctx context.Context, name string, version int, data any) error {
	body := map[string]any{"options": map[string]int{"cas": version}, "data": data}
	status, err := s.c.Server.Call(ctx, http.MethodPost, s.path("data", name), body, nil)
	switch {
	case err != nil:
		return fmt.Errorf("write: %w", err)
	case status == http.StatusBadRequest:
		return fmt.Errorf("write: the engine does not take it: %w", store.ErrConflict)
	case status == http.StatusRequestEntityTooLarge:
		return errors.New("write: the engine does not take so much at once")
	case status != http.StatusOK && status != http.StatusNoContent:
		return fmt.Errorf("write: %w", bao.Refusal(status))
	}
	return nil
}

// Get returns one record, or store.ErrNotFound.
func (s *Store) Get(ctx context.Context, key string) (store.Record, error) {
	for range 3 { // a content that is gone was replaced after the index was read
		x, err := s.index(ctx)
		if err != nil {
			return store.Record{}, err
		}
		e, ok := x.Records[key]
		if !ok {
			return store.Record{}, store.ErrNotFound
		}
		r, err := s.record(ctx, key, e)
		if !errors.Is(err, store.ErrNotFound) {
			return r, err
		}
	}
	return store.Record{}, fmt.Errorf("record %q has no content: %w", key, store.ErrDamaged)
}

// record reads the content of an entry.
func (s *Store) record(ctx context.Context, key string, e entry) (store.Record, error) {
	var d document[content]
	if !plain(e.Content) {
		return store.Record{}, fmt.Errorf("record %q: %w", key, store.ErrDamaged)
	}
	status, err := s.c.Server.Call(ctx, http.MethodGet, s.path("data", "content/"+e.Content), nil, &d)
	switch {
	case err != nil:
		return store.Record{}, fmt.Errorf("read: %w", err)
	case status == http.StatusNotFound:
		return store.Record{}, store.ErrNotFound
	case status != http.StatusOK:
		return store.Record{}, fmt.Errorf("read: %w", bao.Refusal(status))
	}
	return store.Record{Key: key, Value: d.Data.Value, Revision: e.Revision}, nil
}

// plain reports whether a name is one that we drew: it becomes a part of a path.
func plain(name string) bool {
	return name != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// Walk visits the records whose keys begin with prefix, sorted by key. The records are
// those of one moment.
func (s *Store) Walk(ctx context.Context, prefix string, visit func(store.Record) error) error {
	all, err := s.snapshot(ctx, prefix)
	if err != nil {
		return err
	}
	for _, r := range all {
		if err := visit(r); err != nil {
			return err
		}
	}
	return nil
}

// snapshot reads records until the index says that none of them changed meanwhile.
func (s *Store) snapshot(ctx context.Context, prefix string) ([]store.Record, error) {
	for range 5 {
		x, err := s.index(ctx)
		if err != nil {
			return nil, err
		}
		all, err := s.all(ctx, x, prefix)
		if !errors.Is(err, store.ErrNotFound) {
			return all, err
		}
	}
	return nil, fmt.Errorf("records below %q change all the time: %w", prefix, store.ErrConflict)
}

func (s *Store) all(ctx context.Context, x index, prefix string) ([]store.Record, error) {
	var all []store.Record
	for _, key := range slices.Sorted(maps.Keys(x.Records)) {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		r, err := s.record(ctx, key, x.Records[key])
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// Apply makes all changes or none. After an error of the network they may have been made
// all the same. Where another host changed other records meanwhile, it is tried again.
func (s *Store) Apply(ctx context.Context, changes []store.Change) error {
	if len(changes) == 0 {
		return nil
	}
	names, err := s.upload(ctx, changes)
	if err != nil {
		return s.undo(ctx, names, err)
	}
	for try := 1; ; try++ {
		x, err := s.index(ctx)
		if err != nil {
			return s.undo(ctx, names, err)
		}
		before, err := x.change(changes, names)
		if err != nil {
			return s.undo(ctx, names, err)
		}
		err = s.write(ctx, "index", x.version, x)
		if err == nil {
			s.forget(ctx, before)
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return err // it may have been written: what it names has to stay
		}
		if try == tries || pause(ctx, try) != nil {
			return s.undo(ctx, names, err)
		}
	}
}

// change makes the changes in x, whose contents have the given names, and returns the
// contents that nothing names then.
func (x index) change(changes []store.Change, names []string) (before []string, err error) {
	for i, c := range changes {
		e := x.Records[c.Key]
		switch {
		case e.Revision != c.Base:
			return nil, fmt.Errorf("change %q: %w", c.Key, store.ErrConflict)
		case c.Delete:
			delete(x.Records, c.Key)
		default:
			x.Records[c.Key] = entry{Content: names[i], Revision: c.Base + 1}
		}
		if e.Content != "" {
			before = append(before, e.Content)
		}
	}
	return before, nil
}

// upload writes the contents of changes under new names, "" for a deletion. With an error
// it returns those that may be there.
func (s *Store) upload(ctx context.Context, changes []store.Change) (names []string, err error) {
	for _, c := range changes {
		if c.Delete {
			names = append(names, "")
			continue
		}
		name := rand.Text()
		names = append(names, name)
		if err := s.write(ctx, "content/"+name, 0, content{c.Value}); err != nil {
			return names, err
		}
	}
	return names, nil
}

// pause lets another host go first, longer with each try.
func pause(ctx context.Context, try int) error {
	select {
	case <-time.After(mathrand.N(time.Duration(try) * 10 * time.Millisecond)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// undo removes contents that no index names.
func (s *Store) undo(ctx context.Context, names []string, err error) error {
	s.forget(ctx, names)
	return err
}

// forgetting is the longest time that the end of a change may take, cancelled or not.
const forgetting = 5 * time.Second

// forget removes contents with all their versions, also for a change that was cancelled.
// What an error or a kill leaves is sealed, and no index names it. Nothing sweeps it: that
// takes a token that may list, and a change of another host looks the same until its index
// is written.
func (s *Store) forget(ctx context.Context, names []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetting)
	defer cancel()
	for _, name := range names {
		if plain(name) {
			_, _ = s.c.Server.Call(ctx, http.MethodDelete, s.path("metadata", "content/"+name), nil, nil)
		}
	}
}

// Watch looks at the index every second.
func (s *Store) Watch(ctx context.Context, changed func(keys []string)) error {
	last, err := s.index(ctx)
	if err != nil {
		return err
	}
	changed(nil)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		now, err := s.index(ctx)
		if err != nil {
			return err
		}
		if keys := differing(last.Records, now.Records); len(keys) > 0 {
			changed(keys)
		}
		last = now
	}
}

func differing(a, b map[string]entry) []string {
	var keys []string
	for key, e := range b {
		if a[key] != e {
			keys = append(keys, key)
		}
	}
	for key := range a {
		if _, ok := b[key]; !ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// Close has nothing to let go of.
func (s *Store) Close() error { return nil }
