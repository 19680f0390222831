package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/bpf"
	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/budget"
	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/dial"
	"github.com/superserve/superserve/proxy/dns"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/passthrough"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/proxy/web"
	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/journal"
)

// proxyMemory is where the collector of the proxy begins to work harder, in bytes. It is no cap: 512 connections
// that relay HTTP take about 40 MiB.
const proxyMemory = 128 << 20

// newProxyCommand returns the hidden command that one run's proxy is. The supervisor starts it with everything by
// descriptor, see sandbox.Handoff; a person has no use for it.
func newProxyCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "proxy",
		Short:  "Serve the connections of one run (started by run)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Ctrl-C is the supervisor's to handle: the proxy lives as long as Ready is open, or until a SIGTERM.
			signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
			debug.SetMemoryLimit(proxyMemory)
			p, err := newProxy(func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), "superserve proxy: "+text) })
			if err != nil {
				return err
			}
			defer p.close()
			return p.serve(cmd.Context())
		},
	}
}

// proxyRun is the proxy of one run, wired.
type proxyRun struct {
	handoff   *sandbox.Handoff
	warn      func(string)
	ready     net.Conn
	names     *dns.Server
	server    *proxy.Server
	web       atomic.Pointer[web.Server] // read by the lease, which is opened first
	wires     wires                      // as web
	grants    grants
	notices   *notices
	budget    *budget.Guard
	questions questions
	gate      *gate
	begin     func() // starts to accept
	ca        *ca.Authority

	streams, lookups []net.Listener
	packets          []net.PacketConn
	closers          []io.Closer // what only has to stay open, in the order of opening
}

// newProxy opens what the hand-off names and wires it, by constructor calls in the order of the data path.
func newProxy(warn func(string)) (*proxyRun, error) {
	handoff, err := sandbox.ReadHandoff()
	if err != nil {
		return nil, err
	}
	p := &proxyRun{handoff: handoff, warn: warn}
	err = p.openSockets()
	if err == nil {
		err = p.wire()
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *proxyRun) wire() error {
	destinations, err := p.openDestinations()
	if err != nil {
		return err
	}
	if err := p.openGrants(); err != nil {
		return err
	}
	swapper := p.newSwapper()
	policy, err := p.newPolicy(swapper.Patterns())
	if err != nil {
		return err
	}
	roots, err := p.roots()
	if err != nil {
		return err
	}
	p.gate = &gate{egress.NewLive(policy), swapper, p.handoff.Asks}
	dialer, err := dial.New(dial.Config{Policy: p.gate, Overrides: p.handoff.Resolve, LazyRoots: roots.pool})
	if err != nil {
		return err
	}
	if p.ca, err = ca.New(); err != nil {
		return err
	}
	recorder, err := p.recorder()
	if err != nil {
		return err
	}
	relay := web.New(web.Config{CA: p.ca, Dial: dialer, Swap: swapper, Audit: recorder, Policy: p.gate, Recheck: dialer.Recheck, Budget: p.openBudget(recorder)})
	p.web.Store(relay)
	table := dns.NewTable()
	p.names = dns.NewServer(dns.Config{Table: table, IPv6: p.handoff.FDs.TCP6 != 0})
	p.server = proxy.New(proxy.Config{
		Destination: destinations.Lookup, Names: table, Policy: p.gate, Ask: p.asks(), Upstream: dialer.Recheck,
		Intercept: p.gate.intercepts, InterceptAddr: swapper.BoundAddr, Plaintext: p.plaintext,
		Web: relay, Refuse: relay.Refuse(), Wires: p.wires.open(p.grants.entries(), p.grants.resolver(), dialer, p.ca, recorder),
		Passthrough: passthrough.New(passthrough.Config{Dial: dialer, Refuse: relay.Refuse(), Audit: recorder}),
		Audit:       recorder, MaxConns: p.handoff.MaxConns,
	})
	return nil
}

// serve confines the process, says that it could serve, does so from the supervisor's order on, and until that closes
// Ready. The agent is started after the order, so no byte of it meets a process that is not confined.
func (p *proxyRun) serve(ctx context.Context) error {
	pages, err := constants()
	if err != nil {
		return err
	}
	if err := confine(p.warn); err != nil {
		return err
	}
	if err := sandbox.WriteReady(p.ready, p.ca.DER()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	run := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				cancel(err)
			}
		})
	}
	p.begin = sync.OnceFunc(func() { p.accept(ctx, run) })
	run(func() error { return p.notices.run(ctx, p.ready) })
	run(func() error { return p.untilClosed(ctx) })
	run(func() error { return trimLater(ctx, pages) })
	<-ctx.Done()
	p.server.Close()
	p.names.Close()
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, errSupervisorGone) && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// accept serves every listener. Until it is called they are the self-test's of the cage, which must find its own
// answers there and no others.
func (p *proxyRun) accept(ctx context.Context, run func(func() error)) {
	for _, l := range p.streams {
		run(func() error { return p.server.Serve(ctx, l) })
	}
	for _, l := range p.lookups {
		run(func() error { return p.names.ServeTCP(ctx, l) })
	}
	for _, c := range p.packets {
		run(func() error { return p.names.ServeUDP(ctx, c) })
	}
}

var errSupervisorGone = errors.New("the supervisor closed the run")

// untilClosed carries out orders and returns errSupervisorGone when the other end of Ready is closed, also by the
// death of its process.
func (p *proxyRun) untilClosed(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := sandbox.FollowOrders(p.ready, p.carryOut); ctx.Err() == nil && err != nil {
		return fmt.Errorf("%w: %w", errSupervisorGone, err)
	}
	return errSupervisorGone
}

// close lets go of everything; it may be called on a proxyRun that was never completed.
func (p *proxyRun) close() {
	if relay := p.web.Load(); relay != nil {
		_ = relay.Close() // parked connections only; nothing to report to anyone
	}
	p.closeBudget()
	p.grants.close()
	for _, c := range slices.Backward(p.closers) {
		_ = c.Close()
	}
}

func (p *proxyRun) openDestinations() (*bpf.Destinations, error) {
	f, err := inherited(p.handoff.FDs.Destinations, "destinations")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, err := bpf.OpenDestinations(f)
	if err == nil {
		p.closers = append(p.closers, d)
	}
	return d, err
}

func (p *proxyRun) newSwapper() *swap.Swapper {
	options := []swap.Option{swap.Agent(p.handoff.Agent)}
	if p.handoff.Asks {
		p.questions.tell = func(n sandbox.Notice) bool { return p.notices.ask(n) }
		options = append(options, swap.Ask(p.questions.secret))
	}
	return swap.New(p.grants.entries(), p.grants.resolver(), options...)
}

// asks returns what asks about names that no rule speaks of, nil when nobody answers.
func (p *proxyRun) asks() func(context.Context, api.Host, uint16) {
	if !p.handoff.Asks {
		return nil
	}
	return p.questions.network
}

// plaintext reports whether a secret may go to h without TLS.
func (p *proxyRun) plaintext(h api.Host, port uint16) bool {
	if p.gate.plain(h, port) {
		return true
	}
	return slices.ContainsFunc(p.grants.entries(), func(e api.Entry) bool {
		return e.Binding.Plaintext && slices.ContainsFunc(e.Binding.Hosts, func(b api.Pattern) bool { return b.Match(h, port) })
	})
}

// newPolicy parses the run's policy as it is now.
func (p *proxyRun) newPolicy(bound []api.Pattern) (*egress.Policy, error) {
	return policyFor(p.handoff.Network, bound, p.handoff.Resolve)
}

// roots are the host's certificates, read now because confine takes the files away, and the operator's.
func (p *proxyRun) roots() (*roots, error) {
	all, err := readRoots(rootFiles, rootDirs)
	if err != nil {
		p.warn("the host has no certificates: " + err.Error())
	}
	if len(p.handoff.UpstreamCA) > 0 {
		if err := all.add(p.handoff.UpstreamCA); err != nil {
			return nil, fmt.Errorf("read the upstream CA: %w", err)
		}
	}
	return all, nil
}

// recorder writes to the run's journal and tells the supervisor's user of refusals.
func (p *proxyRun) recorder() (audit.Recorder, error) {
	writer := audit.NewWriter(io.Discard)
	if p.handoff.FDs.Audit != 0 {
		log, err := p.openJournal()
		if err != nil {
			return nil, err
		}
		writer = audit.NewJournalWriter(log, p.handoff.Run, p.handoff.Agent)
	}
	p.notices = newNotices(writer)
	return p.notices, nil
}

// openJournal opens the run's log; closing it, before its file, writes its last lines.
func (p *proxyRun) openJournal() (*journal.Log, error) {
	f, err := inherited(p.handoff.FDs.Audit, "audit")
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, f)
	tail, err := inherited(p.handoff.FDs.Tail, "tail")
	if err != nil {
		return nil, err
	}
	log, err := journal.OpenLog(f, tail)
	if err == nil {
		p.closers = append(p.closers, log)
	}
	return log, err
}
