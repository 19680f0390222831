package cli

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// ownAddrs knows the host's own addresses, which change seldom and are asked for often. It is safe for
// concurrent use.
type ownAddrs struct {
	list func() ([]net.Addr, error)

	mu    sync.Mutex
	until time.Time
	addrs map[netip.Addr]bool
}

// ownAge is how long the list is believed.
const ownAge = 5 * time.Second

// has reports whether a is one of the host's own addresses. When they cannot be listed, every address counts as
// one: a refused connection is seen at once, an allowed one is not.
func (o *ownAddrs) has(a netip.Addr) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Now().After(o.until) {
		o.read()
	}
	return o.addrs == nil || o.addrs[a]
}

func (o *ownAddrs) read() {
	list, err := o.list()
	if err != nil {
		o.addrs = nil
		return
	}
	o.addrs, o.until = map[netip.Addr]bool{}, time.Now().Add(ownAge)
	for _, a := range list {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			o.addrs[prefix.Addr().Unmap().WithZone("")] = true
		}
	}
}
