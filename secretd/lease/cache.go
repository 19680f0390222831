package lease

import (
	"sync"
	"time"

	"github.com/superserve/superserve/secretd/api"
)

// maxCached bounds the cache: under a wildcard an agent can name any number of
// hosts. A full cache starts anew.
const maxCached = 1024

// cache keeps answers for the time of their lease. It is safe for concurrent use.
// A plain map under a read lock was measured against a copy-on-write map: the same
// within noise, and this one cannot be made to copy by a hostile agent.
type cache struct {
	mu    sync.RWMutex
	lease time.Duration // negative keeps nothing
	count uint64        // of changes so far
	cells map[api.ResolveRequest]cell
}

type cell struct {
	name   string
	secret api.Secret
	// expires is on the monotonic clock of start: a clock that is set changes
	// nothing, and comparing two durations is half the price of two Times.
	expires time.Duration
}

// start is the origin of the monotonic clock that leases are measured on.
var start = time.Now()

func (c *cache) get(r *api.ResolveRequest) (api.Secret, bool) {
	c.mu.RLock()
	held, ok := c.cells[*r]
	c.mu.RUnlock()
	if !ok || time.Since(start) >= held.expires {
		return nil, false
	}
	return held.secret, true
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
	c.cells[r] = cell{name: name, secret: s, expires: time.Since(start) + c.lease}
}

// forget drops every answer of one secret.
func (c *cache) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
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
	c.cells = make(map[api.ResolveRequest]cell)
}
