package proxy

import (
	"context"
	"testing"

	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/secretd/api"
)

// TestServerAsks: a connection to a name that no rule speaks of waits for an answer, and is judged by the policy that
// this leaves. Nobody is asked about what is denied, about addresses, and where there is no network.
func TestServerAsks(t *testing.T) {
	bound := egress.Rules{Mode: egress.ModeBound, Deny: []string{"evil.com"}, Bound: []api.Pattern{{Host: "api.x.com"}}}
	opened := bound
	opened.Allow = []string{"free.org:443"}
	for _, c := range []struct {
		name, dest string
		rules      egress.Rules
		after      *egress.Rules // what was answered; nil leaves the policy
		asked      string
		want       string // who serves it
		reason     string
	}{
		{"lets through what is allowed", freeAddr + ":443", bound, &opened, "free.org", "passthrough", ""},
		{"refuses what is not", freeAddr + ":443", bound, nil, "free.org", "refuse", egress.ReasonUnlisted},
		{"asks nobody about what is listed", freeAddr + ":443", opened, nil, "", "passthrough", ""},
		{"asks nobody about what is denied", evilAddr + ":443", bound, nil, "", "refuse", egress.ReasonDenied},
		{"asks nobody about another port of a bound host", boundAddr + ":8443", bound, nil, "", "refuse", egress.ReasonBoundPort},
		{"asks nobody about an address", "1.1.1.1:443", bound, nil, "", "refuse", egress.ReasonUnlisted},
		{"asks nobody about a private address", "10.0.0.1:443", bound, nil, "", "refuse", egress.ReasonAddress},
		{"asks nobody about the metadata service", "169.254.169.254:443", bound, nil, "", "refuse", egress.ReasonAddress},
		{"asks nobody without a network", freeAddr + ":443", egress.Rules{}, nil, "", "refuse", egress.ReasonOff},
	} {
		t.Run("it "+c.name, func(t *testing.T) {
			live := egress.NewLive(parsed(t, c.rules))
			rigs := make(chan *rig, 1)
			asked := make(chan api.Host, 1)
			r := newRig(t, c.dest, patient, func(cfg *Config) {
				cfg.Policy = live
				cfg.Ask = func(_ context.Context, h api.Host, port uint16) {
					asked <- h
					if c.after != nil {
						live.Set(parsed(t, *c.after))
					}
					if n := (<-rigs).Recheck(); n != 0 {
						t.Errorf("%d connections were reset that wait for an answer", n)
					}
				}
			})
			rigs <- r
			conn := r.client(t, helloFor(t, "free.org"))
			if got := served(t, conn); got != c.want {
				t.Errorf("served by %q, want %q", got, c.want)
			}
			var got api.Host
			select {
			case got = <-asked:
			default:
			}
			if string(got) != c.asked {
				t.Errorf("asked about %q, want %q", got, c.asked)
			}
			if c.reason != "" {
				if e := <-r.events; e.Reason != c.reason {
					t.Errorf("recorded as %s, want %s", e.Reason, c.reason)
				}
			}
		})
	}
}
