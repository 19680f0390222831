// Package dns answers the sandbox's name lookups from memory. Every name has a
// synthetic address of its own; nothing is ever asked of another resolver, so
// there is no tunnel in it and nothing to rebind. The proxy turns the address of a
// connection back into the name.
package dns

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"

	"github.com/superserve/superserve/secretd/api"
)

// Prefixes of the synthetic addresses. The first is set aside for benchmarks (RFC
// 2544) and not routed; the second is a unique local one (RFC 4193).
var (
	Prefix4 = netip.MustParsePrefix("198.18.0.0/15")
	Prefix6 = netip.MustParsePrefix("fd73:7372:7665::/96")
)

// maxNames bounds a table. A name costs about 150 bytes and, at the longest, 400.
// Addresses are never used again for another name: an agent that kept one would
// reach a host that it did not name.
const maxNames = 1 << 16

// ErrFull is returned for a name beyond the bound of a Table.
var ErrFull = errors.New("dns: too many names")

// Table gives names synthetic addresses. It is safe for concurrent use.
type Table struct {
	most int

	mu    sync.RWMutex
	index map[api.Host]uint32
	names []api.Host // names[i] has the addresses number i+1
}

// NewTable returns an empty Table.
func NewTable() *Table { return newTable(maxNames) }

func newTable(most int) *Table { return &Table{most: most, index: map[api.Host]uint32{}} }

// Addrs returns the addresses of h, giving it some at first sight. The only error
// is ErrFull.
func (t *Table) Addrs(h api.Host) (v4, v6 netip.Addr, err error) {
	t.mu.RLock()
	n, ok := t.index[h]
	t.mu.RUnlock()
	if !ok {
		if n, err = t.add(h); err != nil {
			return netip.Addr{}, netip.Addr{}, err
		}
	}
	return addr4(n), addr6(n), nil
}

func (t *Table) add(h api.Host) (uint32, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.index[h]; ok {
		return n, nil
	}
	if len(t.names) >= t.most {
		return 0, ErrFull
	}
	t.names = append(t.names, h)
	n := uint32(len(t.names))
	t.index[h] = n
	return n, nil
}

// Name returns the name behind a synthetic address, which may be in mapped form.
func (t *Table) Name(a netip.Addr) (api.Host, bool) {
	a = a.Unmap()
	if !Prefix4.Contains(a) && !Prefix6.Contains(a) {
		return "", false
	}
	n := number(a)
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n == 0 || n > uint32(len(t.names)) {
		return "", false
	}
	return t.names[n-1], true
}

func number(a netip.Addr) uint32 {
	if a.Is4() {
		b := a.As4()
		return binary.BigEndian.Uint32(b[:]) &^ (^uint32(0) << (32 - Prefix4.Bits()))
	}
	b := a.As16()
	return binary.BigEndian.Uint32(b[12:])
}

func addr4(n uint32) netip.Addr {
	b := Prefix4.Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|n)
	return netip.AddrFrom4(b)
}

func addr6(n uint32) netip.Addr {
	b := Prefix6.Addr().As16()
	binary.BigEndian.PutUint32(b[12:], n)
	return netip.AddrFrom16(b)
}
