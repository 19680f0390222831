package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/account"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/lease"
	"github.com/superserve/superserve/secretd/placeholder"
	"github.com/superserve/superserve/secretd/preset"
)

// FromSecretd grants secrets that secretd keeps for an agent. Missing ones are a *api.MissingError.
func FromSecretd(c *client.Client, agent string, wanted []api.Wanted) Secrets {
	return func(ctx context.Context, run string) (Granted, error) {
		reply, channel, err := c.Grant(ctx, api.GrantRequest{Agent: agent, Run: run, Secrets: wanted})
		if err != nil {
			return Granted{}, err
		}
		return Granted{
			Entries: reply.Entries, Exposed: reply.Exposed, Channel: channel, Resume: reply.Resume, Socket: c.Socket(),
		}, nil
	}
}

// Source is an embedder's own keeper of secrets: a vault, a database, a cloud's secret manager.
type Source interface {
	// Secret returns the present value of a secret. It is called at the start of a run and then again for uses that are
	// more than a minute apart, so that a rotated value is taken up. The slice is not changed. It must be safe for
	// concurrent use.
	Secret(ctx context.Context, name string) ([]byte, error)
}

// SourceSecret is one secret that a run shall have.
type SourceSecret struct {
	Name    string       // the environment variable that holds the placeholder
	Binding *api.Binding // where it may go; nil is what superserve knows of the name (ANTHROPIC_API_KEY, GITHUB_TOKEN, …)
	Expose  bool         // the agent holds the value itself
	Limits  api.Limits   // what its requests may use; a day's are then the run's own
}

// FromSource grants secrets of a Source, which are served to the run's proxy by this process: no secretd is needed, and
// the values are nowhere but here and in the proxy.
func FromSource(src Source, wanted []SourceSecret) Secrets {
	return func(ctx context.Context, run string) (Granted, error) {
		k := &keeper{src: src, run: run, names: make(map[string]api.Entry), accounts: make(map[string]*account.Account)}
		exposed, err := k.fill(ctx, wanted)
		if err != nil {
			return Granted{}, err
		}
		channel, stop, err := k.serve()
		if err != nil {
			return Granted{}, err
		}
		return Granted{Entries: k.entries, Exposed: exposed, Channel: channel, Close: stop, Bind: k.bind}, nil
	}
}

// Both grants the secrets of two keepers: those that secretd keeps, say, and some that the caller has brought along for
// this run. No name may be in both.
func Both(a, b Secrets) Secrets {
	return func(ctx context.Context, run string) (Granted, error) {
		g, err := a(ctx, run)
		if err != nil {
			return Granted{}, err
		}
		second, err := b(ctx, run)
		if err != nil {
			closeFiles([]*os.File{g.Channel})
			g.close()
			return Granted{}, err
		}
		all := Granted{
			Entries: append(slices.Clone(g.Entries), second.Entries...), Exposed: maps.Clone(g.Exposed),
			Channel: g.Channel, Second: second.Channel, Resume: g.Resume, Socket: g.Socket,
			Close: func() { g.close(); second.close() },
			Bind:  func(name string, b api.Binding) error { return errors.Join(g.bind(name, b), second.bind(name, b)) },
		}
		if all.Exposed == nil {
			all.Exposed = second.Exposed
		} else {
			maps.Copy(all.Exposed, second.Exposed)
		}
		return all, nil
	}
}

func (g *Granted) close() {
	if g.Close != nil {
		g.Close()
	}
}

func (g *Granted) bind(name string, b api.Binding) error {
	if g.Bind == nil {
		return nil
	}
	return g.Bind(name, b)
}

// keeper is a lease.Keeper over a Source.
type keeper struct {
	src     Source
	entries []api.Entry
	run     string

	mu       sync.Mutex
	names    map[string]api.Entry        // by placeholder
	accounts map[string]*account.Account // by placeholder
}

func (k *keeper) fill(ctx context.Context, wanted []SourceSecret) (map[string][]byte, error) {
	marker := placeholder.NewMarker()
	exposed := make(map[string][]byte)
	for _, w := range wanted {
		if err := api.CheckName(w.Name); err != nil {
			return nil, err
		}
		value, err := k.src.Secret(ctx, w.Name)
		if err != nil {
			return nil, fmt.Errorf("get secret %q: %w", w.Name, err)
		}
		binding, err := w.binding()
		if err != nil {
			return nil, err
		}
		e := api.Entry{Name: w.Name, Binding: binding, Exposed: w.Expose, Limits: w.Limits}
		if e.Placeholder, err = placeholder.Mint(marker, w.Name, value); err != nil {
			return nil, fmt.Errorf("make placeholder of %q: %w", w.Name, err)
		}
		if w.Expose {
			exposed[w.Name] = value
		}
		k.entries = append(k.entries, e)
		k.names[e.Placeholder] = e
	}
	return exposed, nil
}

func (w SourceSecret) binding() (api.Binding, error) {
	if w.Binding != nil {
		if err := w.Binding.Check(); err != nil {
			return api.Binding{}, fmt.Errorf("bind secret %q: %w", w.Name, err)
		}
		return *w.Binding, nil
	}
	b, ok := preset.For(w.Name)
	if !ok {
		return api.Binding{}, fmt.Errorf("bind secret %q: %w: name the hosts it may go to", w.Name, api.ErrUnbound)
	}
	return b, nil
}

// serve answers the proxy's end, which it returns, until that is closed or stop is called.
func (k *keeper) serve() (proxyEnd *os.File, stop func(), err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("serve secrets: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "grant"), os.NewFile(uintptr(pair[1]), "grant")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("serve secrets: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { lease.Serve(ctx, conn, k, nil) })
	return theirs, func() { cancel(); wg.Wait() }, nil
}

// Entries implements lease.Keeper.
func (k *keeper) Entries() []api.Entry { return k.entries }

// Resolve implements lease.Keeper. It is the gate: a placeholder is worth a value at its own hosts and nowhere else.
func (k *keeper) Resolve(ctx context.Context, r api.ResolveRequest) ([]byte, error) {
	e, ok := k.entry(r.Placeholder)
	if !ok {
		return nil, api.ErrUnknown
	}
	if !e.Binding.Bound() {
		return nil, api.ErrUnbound
	}
	if !allows(e.Binding, r) {
		return nil, api.ErrHost
	}
	value, err := k.src.Secret(ctx, e.Name)
	if err != nil {
		return nil, errors.Join(api.ErrUnavailable, err)
	}
	return value, nil
}

func (k *keeper) entry(placeholder string) (api.Entry, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.names[placeholder]
	return e, ok
}

// bind binds a secret that was granted unbound. One that is bound stays as it is, and one of another keeper is left to it.
func (k *keeper) bind(name string, b api.Binding) error {
	if err := b.Check(); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for placeholder, e := range k.names {
		if e.Name != name {
			continue
		}
		if e.Exposed || e.Binding.Bound() {
			return fmt.Errorf("bind secret %q: %w: it is bound", name, api.ErrDenied)
		}
		e.Binding = b
		k.names[placeholder] = e
	}
	return nil
}

// Charge implements lease.Accountant.
func (k *keeper) Charge(_ context.Context, c api.Charge) (api.Verdict, error) {
	e, ok := k.entry(c.Placeholder)
	if !ok {
		return api.Verdict{}, api.ErrUnknown
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	a := k.accounts[c.Placeholder]
	if a == nil {
		a = new(account.Account)
		k.accounts[c.Placeholder] = a
	}
	if c.Ask {
		return a.Ask(k.run, e.Limits, time.Now()), nil
	}
	a.Add(k.run, c.Spend, time.Now())
	return api.Verdict{}, nil
}

// allows judges the destination of a request.
func allows(b api.Binding, r api.ResolveRequest) bool {
	addr, _ := netip.ParseAddr(r.Addr)
	for _, p := range b.Hosts {
		if r.Host != "" && p.Match(r.Host, r.Port) {
			return true
		}
		if r.Host == "" && p.MatchAddr(addr, r.Port) {
			return true
		}
	}
	return false
}
