package redact

import (
	"sync"
	"sync/atomic"
)

// Cache makes the Sets of one run, so that a new connection costs none of its own
// and that guesses are counted over all connections (Probed). The zero value is
// ready, and is safe for concurrent use.
type Cache struct {
	mu    sync.Mutex // of who replaces union
	union atomic.Pointer[Set]
}

// Latest returns the Set that covers all that any With was given, but for the passing keys that others displaced. Nil
// before the first.
func (c *Cache) Latest() *Set { return c.union.Load() }

// With is Set.With for a set that came from this Cache, or nil: it returns s itself
// when that covers pairs, else a Set that covers all that any With of the Cache was
// given.
func (c *Cache) With(s *Set, pairs []Pair) *Set {
	if s != nil && s.coversAll(pairs) {
		return s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	union := c.union.Load().With(pairs)
	c.union.Store(union)
	return union
}

// Probed is Set.Probed, over the whole run.
func (c *Cache) Probed() bool { return c.union.Load().Probed() }
