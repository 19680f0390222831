package bpf

import "fmt"

// Counters says what the programs of one sandbox have done since Attach.
type Counters struct {
	Redirected    uint64 // TCP connections sent to the proxy
	Resolved      uint64 // connections and datagrams sent to the resolver
	Local         uint64 // left alone: the sandbox's own loopback
	RefusedSocket uint64 // socket() of something that is neither TCP nor UDP
	RefusedUDP    uint64 // UDP to a port other than 53
	RefusedOther  uint64 // every other refused connect
	Unrecorded    uint64 // connections whose destination is unknown; the proxy closes them
	Dropped       uint64 // packets that no other hook had judged; always 0 unless a hook has a hole
}

// Counters reads the counters. They are summed over all processors and not read at one instant.
func (r *Redirect) Counters() (Counters, error) {
	var c Counters
	for _, field := range []struct {
		key egressCounter
		sum *uint64
	}{
		{egressCounterREDIRECTED, &c.Redirected}, {egressCounterRESOLVED, &c.Resolved}, {egressCounterLOCAL, &c.Local},
		{egressCounterREFUSED_SOCKET, &c.RefusedSocket}, {egressCounterREFUSED_UDP, &c.RefusedUDP},
		{egressCounterREFUSED_OTHER, &c.RefusedOther}, {egressCounterUNRECORDED, &c.Unrecorded}, {egressCounterDROPPED, &c.Dropped},
	} {
		var each []uint64 // one a possible processor
		if err := r.objects.Counters.Lookup(field.key, &each); err != nil {
			return Counters{}, fmt.Errorf("read egress counters: %w", err)
		}
		for _, n := range each {
			*field.sum += n
		}
	}
	return c, nil
}
