package redact

import "sync"

// Cache makes the Sets of one run, so that a new connection costs none of its own
// and that guesses are counted over all connections (Probed). The zero value is
// ready, and is safe for concurrent use.
type Cache struct {
	mu    sync.Mutex
	union *Set
}

// With is Set.With for a set that came from this Cache, or nil: it returns s itself
// when that covers pairs, else a Set that covers all that any With of the Cache was
// given.
func (c *Cache) With(s *Set, pairs []Pair) *Set {
	if s != nil && s.coversAll(pairs) {
		return s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.union = c.union.With(pairs)
	return c.union
}

// Probed is Set.Probed, over the whole run.
func (c *Cache) Probed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.union.Probed()
}
