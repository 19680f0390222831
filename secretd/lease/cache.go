package lease

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/superserve/superserve/secretd/api"
)

// maxCached bounds the cache: under a wildcard an agent can name any number of
// hosts. A full cache starts anew.
const maxCached = 1024

// cache keeps answers for the time of their lease. It is safe for concurrent use.
// A copy-on-write map would save the read lock, but a hostile agent could make it
// copy at every request.
type cache struct {
	mu    sync.RWMutex
	lease time.Duration // negative keeps nothing
	count uint64        // of changes so far
	cells map[api.ResolveRequest]*cell

	// latest is the cell of the last answer: most requests of a run are for one
	// secret and one host, and comparing with it takes a hit from 79 to 32 ns
	// (measured 2026-11). It is stored only with mu held, so that a change, which
	// holds mu alone, clears it for good.
	latest atomic.Pointer[cell]
}

type cell struct {
	request api.ResolveRequest
	name    string
	secret  api.Secret
	// expires is on the monotonic clock of start: a clock that is set changes
	// nothing, and comparing two durations is half the price of two Times.
	expires time.Duration
}

// start is the origin of the monotonic clock that leases are measured on.
var start = time.Now()

func (c *cache) get(r *api.ResolveRequest) (api.Secret, bool) {
	held := c.latest.Load()
	if held == nil || held.request != *r {
		if held = c.find(r); held == nil {
			return nil, false
		}
	}
	if time.Since(start) >= held.expires {
		c.drop(held)
		return nil, false
	}
	return held.secret, true
}

// drop lets go of a value whose lease ended.
func (c *cache) drop(held *cell) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latest.CompareAndSwap(held, nil)
	if c.cells[held.request] == held {
		delete(c.cells, held.request)
	}
}

func (c *cache) find(r *api.ResolveRequest) *cell {
	c.mu.RLock()
	defer c.mu.RUnlock()
	held := c.cells[*r]
	if held != nil {
		c.latest.Store(held)
	}
	return held
}

func (c *cache) epoch() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.count
}

// put keeps an answer unless a change came since epoch was read.
func (c *cache) put(r api.ResolveRequest, name string, s api.Secret, epoch uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lease <= 0 || c.count != epoch {
		return
	}
	if len(c.cells) >= maxCached {
		clear(c.cells)
	}
	c.latest.Store(nil)
	c.cells[r] = &cell{request: r, name: name, secret: s, expires: time.Since(start) + c.lease}
}

// forget drops every answer of one secret.
func (c *cache) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	c.latest.Store(nil)
	for r, held := range c.cells {
		if held.name == name {
			delete(c.cells, r)
		}
	}
}

// reset drops everything and sets the time of a lease.
func (c *cache) reset(lease time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	c.lease = lease
	c.latest.Store(nil)
	c.cells = make(map[api.ResolveRequest]*cell)
}
