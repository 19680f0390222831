package sandbox

import (
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/runtime/cgroup"
)

// watchPause is how long a cage may stand open unseen. There is no event for what is looked at; a look takes
// 0.1 ms. Open means that the agent has no network, for the wall is the namespace: what is ended here is an agent
// whose connections are not judged as its audit log says.
const watchPause = 250 * time.Millisecond

// watch ends the sandbox when somebody, who must be root, has taken a hook off the cage or a process out of it. The
// function that it returns ends the watch and waits for that.
func (s *Sandbox) watch() (stop func()) {
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		// Those that are there before the agent's first instruction: of gVisor's, the ones that open sockets.
		members, err := s.cage.leaf.Members()
		tick := time.NewTicker(watchPause)
		defer tick.Stop()
		for err == nil {
			select {
			case <-done:
				return
			case <-tick.C:
				err = s.cage.intact(members)
			}
		}
		s.kill(Result{codeFailed, ReasonCage, "the cage was opened from outside: " + err.Error()})
		s.killEscaped(members)
	})
	return func() { close(done); watching.Wait() }
}

// intact returns an error when the hooks are not where they were, or the processes.
func (c *cage) intact(members []cgroup.Member) error {
	if err := c.redirect.Check(); err != nil {
		return err
	}
	escaped, err := c.leaf.Escaped(members)
	if err != nil {
		return err
	}
	if len(escaped) > 0 {
		return fmt.Errorf("process %d was moved to another cgroup", escaped[0].PID)
	}
	return nil
}

// killEscaped ends what killing the leaf does not reach.
func (s *Sandbox) killEscaped(members []cgroup.Member) {
	escaped, err := s.cage.leaf.Escaped(members)
	if err != nil {
		s.cfg.Log.Warn("find escaped processes", zap.Error(err))
	}
	for _, m := range escaped {
		if err := m.Kill(); err != nil {
			s.cfg.Log.Warn("kill escaped process", zap.Error(err))
		}
	}
}
