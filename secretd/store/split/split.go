// Package split puts the records that are one host's beside those that several share.
package split

import (
	"context"
	"errors"

	"github.com/superserve/superserve/secretd/store"
)

// Store is a store.Store over two. Its name is the shared one's.
type Store struct {
	store.Store // shared
	local       store.Store
	isLocal     func(key string) bool
}

// New returns a Store that keeps the keys of isLocal in local and the others in shared. It
// owns both. isLocal looks at no more of a key than its first part, up to a slash.
func New(shared, local store.Store, isLocal func(key string) bool) *Store {
	return &Store{Store: shared, local: local, isLocal: isLocal}
}

// Get returns one record, or store.ErrNotFound.
func (s *Store) Get(ctx context.Context, key string) (store.Record, error) {
	if s.isLocal(key) {
		return s.local.Get(ctx, key)
	}
	return s.Store.Get(ctx, key)
}

// Walk visits the records of both whose keys begin with prefix, sorted by key.
func (s *Store) Walk(ctx context.Context, prefix string, visit func(store.Record) error) error {
	if s.isLocal(prefix) {
		return s.local.Walk(ctx, prefix, visit)
	}
	own, err := store.List(ctx, s.local, prefix)
	if err != nil {
		return err
	}
	upTo := func(key string, all bool) error {
		for len(own) > 0 && (all || own[0].Key < key) {
			r := own[0]
			own = own[1:]
			if err := visit(r); err != nil {
				return err
			}
		}
		return nil
	}
	err = s.Store.Walk(ctx, prefix, func(r store.Record) error {
		if err := upTo(r.Key, false); err != nil {
			return err
		}
		return visit(r)
	})
	if err != nil {
		return err
	}
	return upTo("", true)
}

// Apply makes all changes or none, where they are of one of the two. Those that are of
// both are made in the local one first: an error may leave them there.
func (s *Store) Apply(ctx context.Context, changes []store.Change) error {
	var local, shared []store.Change
	for _, c := range changes {
		if s.isLocal(c.Key) {
			local = append(local, c)
		} else {
			shared = append(shared, c)
		}
	}
	if err := s.local.Apply(ctx, local); err != nil {
		return err
	}
	return s.Store.Apply(ctx, shared)
}

// Close lets go of both.
func (s *Store) Close() error { return errors.Join(s.Store.Close(), s.local.Close()) }
