package cli

import (
	"sync/atomic"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/dial"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/mysql"
	"github.com/superserve/superserve/proxy/postgres"
	"github.com/superserve/superserve/proxy/redis"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

// wires are the protocols of databases. The leases, which are opened first, read them
// from their own goroutines.
type wires struct{ cutters atomic.Pointer[[]cutter] }

// cutter ends the connections that carry a secret.
type cutter interface{ Cut(secret string) }

// open returns the protocols, each by its constructor.
func (w *wires) open(entries []api.Entry, resolver swap.Resolver, dialer *dial.Dialer, authority *ca.Authority, recorder audit.Recorder) []proxy.Wire {
	cfg := login.Config{Entries: entries, Resolver: resolver, Dial: dialer, CA: authority, Audit: recorder}
	pg, rd, my := postgres.New(cfg), redis.New(cfg), mysql.New(cfg)
	w.cutters.Store(&[]cutter{pg, rd, my})
	return []proxy.Wire{pg, rd, my}
}

// cut ends the connections that carry a secret which was taken away with --now.
func (w *wires) cut(secret string) {
	if cutters := w.cutters.Load(); cutters != nil {
		for _, c := range *cutters {
			c.Cut(secret)
		}
	}
}
