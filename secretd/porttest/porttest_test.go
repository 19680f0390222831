package porttest

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
)

func TestReserve(t *testing.T) {
	var mu sync.Mutex
	var wait sync.WaitGroup
	all := map[netip.AddrPort]bool{}
	for range 200 {
		wait.Go(func() {
			addr := Reserve(t)
			mu.Lock()
			defer mu.Unlock()
			if all[addr] {
				t.Errorf("%s was given twice", addr)
			}
			all[addr] = true
		})
	}
	wait.Wait()
	from, to := outside(t)
	for addr := range all {
		if p := int(addr.Port()); p < from || p >= to {
			t.Errorf("%s is one that the kernel gives away", addr)
		}
		l, err := net.Listen("tcp", addr.String())
		if err != nil {
			t.Error(err)
			continue
		}
		l.Close()
	}
}

// A port is anyone's again after the test.
func TestReserveEnds(t *testing.T) {
	var addr netip.AddrPort
	t.Run("a test", func(t *testing.T) { addr = Reserve(t) })
	held, err := net.Listen("unix", fmt.Sprintf("@superserve-test-port-%d", addr.Port()))
	if err != nil {
		t.Fatal(err)
	}
	held.Close()
}
