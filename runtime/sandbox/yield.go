package sandbox

import (
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/runtime/cgroup"
)

// A run that reaches its limit of processors wants more than it shall have, and yields: what it may have it has when
// nobody else wants it. The limit alone does not protect the neighbours: until it is reached the run keeps a processor,
// once it has it, for a whole slice, whoever waits (docs/LIMITS.md).
const (
	yieldLook   = 500 * time.Millisecond
	yieldFor    = 10 * time.Second // after it last reached it
	yieldRelief = 2 * time.Second  // in which it does not yield, after the others left it nothing
	yieldLeast  = 0.1              // of its limit: with less of that it has nothing
)

// yielder decides whether a run yields.
type yielder struct {
	limit   float64 // processors
	seen    time.Time
	load    cgroup.Load
	until   time.Time // it yields
	relief  time.Time // until then it does not
	starved time.Duration
}

// next takes the run's load until now and says whether it yields from now on.
func (y *yielder) next(now time.Time, load cgroup.Load) bool {
	took, before := now.Sub(y.seen), y.load
	first := y.seen.IsZero()
	y.seen, y.load = now, load
	if first {
		return false
	}
	if load.Throttled > before.Throttled && !now.Before(y.relief) {
		y.until = now.Add(yieldFor)
	}
	if !now.Before(y.until) {
		y.starved = 0
		return false
	}
	if y.starves(took, load.Used-before.Used, load.Waited-before.Waited) {
		y.until, y.relief, y.starved = time.Time{}, now.Add(yieldRelief), 0
		return false
	}
	return true
}

// starves says whether the run had nothing for a second that it wanted. Who yields has no claim to any share.
func (y *yielder) starves(took, used, waited time.Duration) bool {
	if waited < took/2 || used > time.Duration(yieldLeast*y.limit*float64(took)) {
		y.starved = 0
		return false
	}
	y.starved += took
	return y.starved >= time.Second
}

// yield looks after the load of a limited run until stop is called, which waits for the last look.
func (s *Sandbox) yield() (stop func()) {
	if s.cfg.Limits.CPU == 0 {
		return func() {}
	}
	done := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		y, yields := yielder{limit: s.cfg.Limits.CPU}, false
		tick := time.NewTicker(yieldLook)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case now := <-tick.C:
				yields = s.lookAtLoad(&y, now, yields)
			}
		}
	})
	return func() { close(done); looking.Wait() }
}

// lookAtLoad makes the run yield, or end that, and says whether it does. A failure costs the neighbours time and no more.
func (s *Sandbox) lookAtLoad(y *yielder, now time.Time, yields bool) bool {
	load, err := s.load()
	next := err == nil && y.next(now, load)
	if err == nil && next != yields {
		err = errors.Join(s.cage.leaf.Yield(next), s.proxyLeaf.Yield(next))
	}
	if err != nil {
		s.cfg.Log.Debug("look at the load", zap.Error(err))
		return yields
	}
	return next
}

// load is that of the agent and its proxy together.
func (s *Sandbox) load() (cgroup.Load, error) {
	agent, err := s.cage.leaf.Load()
	if err != nil {
		return cgroup.Load{}, err
	}
	proxy, err := s.proxyLeaf.Load()
	return cgroup.Load{
		Used:      agent.Used + proxy.Used,
		Waited:    max(agent.Waited, proxy.Waited),
		Throttled: agent.Throttled + proxy.Throttled,
	}, err
}
