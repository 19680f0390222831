package proxy

import (
	"net"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/proxy/egress"
)

const (
	// DefaultMaxConns is the cap on connections that are open at once.
	DefaultMaxConns = 512
	// DefaultMaxWeb is the cap on those of them that Web serves. One whose client does
	// not read costs 130 KiB and as much garbage, a spliced one 40.
	DefaultMaxWeb = 256
	// crowdWait is how long a cap that is reached makes connections wait before they
	// are reset: a burst of short ones passes, a client's own deadline does not.
	crowdWait = 2 * time.Second
)

// crowd is a number of slots. It is safe for concurrent use.
type crowd struct {
	slots chan struct{}
	done  <-chan struct{} // ends all waiting

	mu   sync.Mutex
	full time.Time // since when somebody waits; zero: there was room for the last one
}

func newCrowd(n int, done <-chan struct{}) *crowd {
	return &crowd{slots: make(chan struct{}, n), done: done}
}

// enter takes a slot and reports whether there was one. It waits until there has been
// none for the time wait, so nobody waits longer than that, however many come.
func (c *crowd) enter(wait time.Duration) bool {
	select {
	case c.slots <- struct{}{}:
		c.note(time.Time{})
		return true
	default:
	}
	timer := time.NewTimer(time.Until(c.since().Add(wait)))
	defer timer.Stop()
	select {
	case c.slots <- struct{}{}:
		c.note(time.Time{})
		return true
	case <-timer.C:
	case <-c.done:
	}
	return false
}

func (c *crowd) leave() { <-c.slots }

func (c *crowd) note(full time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.full = full
}

func (c *crowd) since() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full.IsZero() {
		c.full = time.Now()
	}
	return c.full
}

// recordCapped records a connection that came when MaxConns were open.
func (s *Server) recordCapped(conn net.Conn) {
	dest, err := s.destination(conn)
	if err != nil {
		return
	}
	c := &Conn{Dest: dest, Port: dest.Port(), ID: s.accepted.Add(1)}
	c.Host, c.Verdict = s.judge(dest)
	s.refuseCrowd(c, "max_conns")
}

// refuseCrowd records that c is one too many; its caller resets it. A handshake, to say
// so in, would cost what the cap saves.
func (s *Server) refuseCrowd(c *Conn, rule string) {
	s.capped.Add(1)
	c.Verdict = egress.Decision{Rule: rule, Reason: ReasonCrowd}
	if err := s.record(c); err != nil {
		s.log.Error("refused connection is not recorded", zap.Error(err))
	}
}
