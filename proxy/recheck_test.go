package proxy

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/secretd/api"
)

func parsed(t *testing.T, r egress.Rules) *egress.Policy {
	t.Helper()
	p, err := egress.Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRecheckResetsWhatIsNoLongerAllowed(t *testing.T) {
	open := egress.Rules{Mode: egress.ModePublic}
	upstream := netip.MustParseAddr("93.184.216.34")
	for _, c := range []struct {
		name  string
		dest  string
		hello string // server name, "" for no TLS
		rules egress.Rules
		want  string // reason; "" keeps it
	}{
		{"keeps what is still allowed", freeAddr + ":22", "", egress.Rules{Mode: egress.ModePublic, Deny: []string{"other.org"}}, ""},
		{"resets a denied name", freeAddr + ":22", "", egress.Rules{Mode: egress.ModePublic, Deny: []string{"free.org"}}, egress.ReasonDenied},
		{"resets a name that is in no list", freeAddr + ":22", "", egress.Rules{Mode: egress.ModeBound}, egress.ReasonUnlisted},
		{"resets all when the network goes off", "1.1.1.1:22", "", egress.Rules{}, egress.ReasonOff},
		{"resets a denied address", "1.1.1.1:22", "", egress.Rules{Mode: egress.ModePublic, Deny: []string{"1.1.1.0/24"}}, egress.ReasonDenied},
		{"resets a denied server name", freeAddr + ":443", "cdn.org", egress.Rules{Mode: egress.ModePublic, Deny: []string{"cdn.org"}}, egress.ReasonServer},
		{"resets a name whose address is denied", freeAddr + ":22", "", egress.Rules{Mode: egress.ModePublic, Deny: []string{"93.184.0.0/16"}}, egress.ReasonDenied},
		{"resets what is to be looked into", freeAddr + ":443", "free.org",
			egress.Rules{Mode: egress.ModePublic, Requests: []egress.RequestRule{{Target: "free.org", Methods: []string{"GET"}}}}, egress.ReasonInspect},
		{"keeps what is looked into already", boundAddr + ":443", "api.x.com", egress.Rules{Mode: egress.ModePublic, Deny: []string{"free.org"}}, ""},
	} {
		t.Run("it "+c.name, func(t *testing.T) {
			live := egress.NewLive(parsed(t, open))
			r := newRig(t, c.dest, patient, func(cfg *Config) {
				cfg.Policy = live
				cfg.Intercept = func(h api.Host, port uint16) bool { return h == "api.x.com" || live.Inspects(h, port) }
				cfg.Upstream = func(_ api.Host, port uint16, a netip.Addr) egress.Decision { return live.Resolved(a, port) }
			})
			var first []byte
			if c.hello != "" {
				first = helloFor(t, c.hello)
			}
			conn := r.client(t, first)
			served(t, conn)
			proto := r.passthrough
			if c.dest == boundAddr+":443" {
				proto = r.web
			}
			(<-proto.conns).SetUpstream(&net.TCPAddr{IP: upstream.AsSlice(), Port: 22})
			live.Set(parsed(t, c.rules))
			cut := r.Recheck()
			if c.want == "" {
				if cut != 0 || len(r.events) != 0 {
					t.Errorf("%d connections were reset", cut)
				}
				return
			}
			if e := <-r.events; cut != 1 || e.Reason != c.want || e.Verdict != audit.Refused {
				t.Errorf("%d were reset, event %+v; want %s", cut, e, c.want)
			}
			// What it echoes of the hello may come before.
			conn.SetReadDeadline(time.Now().Add(time.Minute))
			for buf := make([]byte, 4096); ; {
				if _, err := conn.Read(buf); err != nil {
					if ne, ok := err.(net.Error); ok && ne.Timeout() {
						t.Error("the connection stands")
					}
					break
				}
			}
		})
	}
}

// TestReplaceHasNoGap replaces the policy by its opposite for ever while connections
// come: each is served by one of the two and none that is refused in the end stands.
func TestReplaceHasNoGap(t *testing.T) {
	yes, no := parsed(t, egress.Rules{Mode: egress.ModePublic}), parsed(t, egress.Rules{Mode: egress.ModePublic, Deny: []string{"free.org"}})
	live := egress.NewLive(yes)
	r := newRig(t, freeAddr+":22", patient, func(cfg *Config) { cfg.Policy, cfg.Audit = live, nil })
	stop := make(chan struct{})
	var drain, wg sync.WaitGroup
	drain.Go(func() {
		for {
			select {
			case <-r.passthrough.conns:
			case <-stop:
				return
			}
		}
	})
	counts := map[string]int{}
	var mu sync.Mutex
	for range 4 {
		wg.Go(func() {
			for range 200 {
				c, err := net.Dial("tcp", r.addr)
				if err != nil {
					continue
				}
				c.SetDeadline(time.Now().Add(time.Minute))
				who := served(t, c)
				mu.Lock()
				counts[who]++
				mu.Unlock()
				c.Close()
			}
		})
	}
	for i := range 500 {
		live.Set([]*egress.Policy{no, yes}[i%2])
		r.Recheck()
	}
	wg.Wait()
	live.Set(yes)
	last := r.client(t, nil)
	served(t, last)
	live.Set(no)
	if r.Recheck() < 1 {
		t.Error("an open connection was not found")
	}
	close(stop)
	drain.Wait()
	for who := range counts {
		if who != "passthrough" && who != "reset" {
			t.Errorf("served by %q", who)
		}
	}
}
