// Package memory is a store that lives as long as its process, for tests and for
// hosts that are given their secrets anew at each start.
package memory

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/superserve/superserve/secretd/store"
)

// Store is a store.Store in memory.
type Store struct {
	id string

	mu      sync.RWMutex
	records map[string]store.Record
}

// New returns an empty store.
func New() *Store {
	return &Store{id: rand.Text(), records: make(map[string]store.Record)}
}

// ID returns the store's own name.
func (s *Store) ID() string { return s.id }

// Get returns one record, or store.ErrNotFound.
func (s *Store) Get(_ context.Context, key string) (store.Record, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.records[key]
	if !ok {
		return store.Record{}, store.ErrNotFound
	}
	r.Value = bytes.Clone(r.Value)
	return r, nil
}

// Walk visits the records whose keys begin with prefix, sorted by key.
func (s *Store) Walk(_ context.Context, prefix string, visit func(store.Record) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, key := range slices.Sorted(maps.Keys(s.records)) {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if err := visit(s.records[key]); err != nil {
			return err
		}
	}
	return nil
}

// Apply makes all changes or none.
func (s *Store) Apply(_ context.Context, changes []store.Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		if s.records[c.Key].Revision != c.Base {
			return fmt.Errorf("change %q: %w", c.Key, store.ErrConflict)
		}
	}
	for _, c := range changes {
		if c.Delete {
			delete(s.records, c.Key)
			continue
		}
		s.records[c.Key] = store.Record{Key: c.Key, Value: bytes.Clone(c.Value), Revision: c.Base + 1}
	}
	return nil
}

// Close does nothing.
func (s *Store) Close() error { return nil }
