// Package store is the contract of the places that keep secretd's records. Records
// are opaque here: what is secret in them was sealed before.
package store

import (
	"bytes"
	"context"
	"errors"
)

// The errors of a Store.
var (
	// ErrNotFound means that there is no record of this key.
	ErrNotFound = errors.New("no such record")
	// ErrConflict means that a record changed since it was read.
	ErrConflict = errors.New("record changed meanwhile")
	// ErrDamaged means that the store's own structure is broken: it was changed
	// from outside, or its disk is failing.
	ErrDamaged = errors.New("store is damaged")
)

// Record is one record. Revision counts its changes, from 1.
type Record struct {
	Key      string
	Value    []byte
	Revision uint64
}

// Change replaces a record, makes it (Base 0), or removes it (Delete). Base is the
// revision that the change builds on; a record that has another one by now is
// ErrConflict.
type Change struct {
	Key    string
	Value  []byte
	Delete bool
	Base   uint64
}

// Store keeps records. It is safe for concurrent use. Keys are non-empty and hold no
// NUL. The slices that Get returns are the caller's.
type Store interface {
	// ID returns the store's own name, drawn at random when it was made.
	ID() string
	// Get returns one record, or ErrNotFound.
	Get(ctx context.Context, key string) (Record, error)
	// Walk calls visit for each record whose key begins with prefix, sorted by key,
	// until visit returns an error, which it returns. The Value is the store's, and
	// good until visit returns; visit may not call the store.
	Walk(ctx context.Context, prefix string, visit func(Record) error) error
	// Apply makes all changes or none. Once it returned nil they survive a power
	// cut.
	Apply(ctx context.Context, changes []Change) error
	// Close lets go of the store. Nothing may be called after it.
	Close() error
}

// List returns the records whose keys begin with prefix, sorted by key. They are the
// caller's.
func List(ctx context.Context, s Store, prefix string) ([]Record, error) {
	var all []Record
	err := s.Walk(ctx, prefix, func(r Record) error {
		r.Value = bytes.Clone(r.Value)
		all = append(all, r)
		return nil
	})
	return all, err
}

// Watcher is a Store that daemons on several hosts have open at once.
type Watcher interface {
	Store
	// Watch calls changed with the keys that anybody changed, once it follows and before
	// anything else with none: what came before is not known. It returns when ctx ends or
	// when it can follow no more.
	Watch(ctx context.Context, changed func(keys []string)) error
}
