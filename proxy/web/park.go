package web

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/superserve/superserve/proxy/quick"
	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/secretd/api"
)

const (
	// parkTime is how long an idle upstream connection waits for the next
	// client: below the shortest keep-alive of common servers (5 s).
	parkTime = 4 * time.Second
	// maxParked bounds the connections that wait, over all names.
	maxParked = 64
	// maxParkedEach bounds those of one name, port and protocol.
	maxParkedEach = 8
)

// parkKey says whom a parked connection may serve. The Server is of one run,
// so that is part of the key by itself.
type parkKey struct {
	host  api.Host
	addr  netip.Addr
	port  uint16
	proto string
}

// parked is an idle upstream connection with what it has carried.
type parked struct {
	conn  net.Conn
	set   *redact.Set
	names []string
	timer *time.Timer
}

// park keeps clean idle upstream connections for a few seconds, so that a loop
// of short-lived clients pays no upstream handshake. It is safe for concurrent
// use.
type park struct {
	mu     sync.Mutex
	idle   map[parkKey][]*parked
	count  int
	closed bool
}

func newPark() *park { return &park{idle: make(map[parkKey][]*parked)} }

// put takes ownership of p.conn.
func (k *park) put(key parkKey, p *parked) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || k.count >= maxParked || len(k.idle[key]) >= maxParkedEach {
		p.conn.Close() //nolint:errcheck // not kept
		return
	}
	k.idle[key] = append(k.idle[key], p)
	k.count++
	p.timer = time.AfterFunc(parkTime, func() { k.expire(key, p) })
}

// take returns the connection that was parked last, if it still lives. The
// caller owns it.
func (k *park) take(key parkKey) *parked {
	for {
		p := k.pop(key)
		if p == nil {
			return nil
		}
		p.timer.Stop()
		if quiet(p.conn) {
			return p
		}
		p.conn.Close() //nolint:errcheck // the peer has closed it already
	}
}

func (k *park) pop(key parkKey) *parked {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := k.idle[key]
	if len(list) == 0 {
		return nil
	}
	p := list[len(list)-1]
	k.drop(key, len(list)-1)
	return p
}

// drop forgets one connection. mu is held.
func (k *park) drop(key parkKey, i int) {
	list := slices.Delete(k.idle[key], i, i+1)
	k.count--
	if len(list) == 0 {
		delete(k.idle, key)
		return
	}
	k.idle[key] = list
}

func (k *park) expire(key parkKey, p *parked) {
	k.mu.Lock()
	i := slices.Index(k.idle[key], p)
	if i >= 0 {
		k.drop(key, i)
	}
	k.mu.Unlock()
	if i >= 0 {
		p.conn.Close() //nolint:errcheck // idle
	}
}

// cut closes the connections that carried the secret.
func (k *park) cut(secret string) {
	k.closeIf(func(p *parked) bool { return slices.Contains(p.names, secret) })
}

// close closes all of them and keeps none from now on.
func (k *park) close() {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.closeIf(func(*parked) bool { return true })
}

func (k *park) closeIf(match func(*parked) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, list := range k.idle {
		rest := list[:0]
		for _, p := range list {
			if !match(p) {
				rest = append(rest, p)
				continue
			}
			p.timer.Stop()
			rawConn(p.conn).Close() //nolint:errcheck // idle
			k.count--
		}
		clear(list[len(rest):])
		k.idle[key] = rest
		if len(rest) == 0 {
			delete(k.idle, key)
		}
	}
}

func (s *session) parkKey(proto string) parkKey {
	key := parkKey{host: s.target.Host, port: s.target.Port, proto: proto}
	if key.host == "" {
		key.addr = s.target.Addr
	}
	return key
}

// quiet reports whether an idle connection, which has answered before, still
// lives and owes nothing: the peer has not closed it, and no byte waits that
// would be taken for the answer to the next request.
func quiet(c net.Conn) bool {
	c.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // a closed connection shows in the read
	var probe [1]byte
	n, err := c.Read(probe[:])
	var ne net.Error
	if n > 0 || !errors.As(err, &ne) || !ne.Timeout() {
		return false
	}
	return c.SetReadDeadline(time.Time{}) == nil && !quick.Pending(rawConn(c))
}

// adopt makes a parked connection the session's upstream. It may have died
// since it was checked, so it first carries only a request that may be
// repeated: see h1relay.ready.
func (s *session) adopt(p *parked, proto string) error {
	s.alpn, s.reused, s.set = proto, true, p.set
	s.mu.Lock()
	s.names = p.names
	s.mu.Unlock()
	return s.attach(p.conn)
}

// leave parks the upstream: the client closed an idle connection cleanly.
func (s *session) leave() {
	up := s.detach()
	if up == nil {
		return
	}
	s.mu.Lock()
	names := s.names
	s.mu.Unlock()
	s.srv.park.put(s.parkKey(s.alpn), &parked{conn: up, set: s.set, names: names})
}
