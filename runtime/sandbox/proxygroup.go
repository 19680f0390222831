package sandbox

import (
	"os/exec"

	"github.com/superserve/superserve/runtime/cgroup"
)

const (
	// proxyGroup is what a run's name is followed by in the name of its proxy's control group.
	proxyGroup = "-proxy"
	// proxyMemory bounds the proxy of a run whose memory is limited, in bytes. As many connections as it takes,
	// each with an answer that nobody reads, are 120 MiB; eight decoders of large windows 150 (docs/LIMITS.md).
	proxyMemory = 512 << 20
	// proxyCPU is the least that a proxy gets, in processors: with less it would not be there in time.
	proxyCPU = 0.25
)

// proxyLimits are the limits of the proxy of a run with limits l. It works for the agent, as fast as the agent asks: what
// bounds the agent's processors bounds its too, in a group of its own, since the hooks of the agent's would
// lead its connections back to itself. A run without limits has a proxy without limits, in a group all the same: what
// yields (yield.go) yields to groups.
func proxyLimits(l cgroup.Limits) cgroup.Limits {
	var p cgroup.Limits
	if l.CPU > 0 {
		p.CPU = max(l.CPU, proxyCPU)
	}
	if l.Memory > 0 {
		p.Memory = proxyMemory
	}
	return p
}

// makeProxyGroup makes the proxy's control group and returns what starts a process in it.
func (s *Sandbox) makeProxyGroup() (start func(*exec.Cmd) error, err error) {
	h, err := cgroup.Find()
	if err != nil {
		return nil, err
	}
	s.proxyLeaf, err = cgroup.New(h, s.id+proxyGroup, proxyLimits(s.cfg.Limits))
	if err != nil {
		return nil, err
	}
	s.proxyLeaf.Beside(s.cage.leaf) // what the agent does not use of its processors is its proxy's
	return s.proxyLeaf.Start, nil
}
