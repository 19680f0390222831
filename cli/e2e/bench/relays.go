package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/dial"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/passthrough"
	"github.com/superserve/superserve/proxy/postgres"
	"github.com/superserve/superserve/proxy/redis"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/proxy/web"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/journal"
)

// host is the name that every client connects to: wrk takes the TLS server name
// from its URL, which the machine must be able to resolve.
const host = "localhost"

// What the agent sends, and what the upstream insists on.
const (
	placeholder = "sk-bench-7bEnChMkabcdefghijklmnopqrstuvwxyzABCDEF0123456789"
	key         = "sk-bench-Zr8xQ2vLw91hGkdPqT7yBn4MsCeUjXaI0oR5fV6tD3zE01234"
)

// ready tells the coordinator the port of ln.
func ready(ln net.Listener) {
	fmt.Println(ln.Addr().(*net.TCPAddr).Port)
}

// untilTerm runs f, and returns when it does or when the coordinator ends it.
func untilTerm(f func(ctx context.Context) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return f(ctx)
}

// proxyRole is the proxy as `superserve proxy` wires it, but for three things: the
// destination is always the same, the key comes from memory, and the process is
// not confined.
func proxyRole(args []string) error {
	set := flag.NewFlagSet("proxy", flag.ContinueOnError)
	upstream := set.String("upstream", "", "address of the upstream")
	roots := set.String("roots", "", "PEM file of its CA")
	record := set.String("audit", "", "file of the audit log")
	profile := set.String("profile", "", "file of a CPU profile")
	wire := set.String("wire", "", "postgres or redis: the protocol to relay in place of HTTP")
	plain := set.Bool("clear", false, "send the key without TLS to a client that has none")
	if err := set.Parse(args); err != nil {
		return err
	}
	binding := api.Binding{Hosts: []api.Pattern{{Host: host}}, Uses: []api.Use{{Kind: api.UseBearer}}, Plaintext: *plain}
	if *wire != "" {
		binding.Uses = []api.Use{{Kind: api.UseKind(*wire)}}
	}
	server, err := newProxy(*upstream, *roots, *record, binding)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	ready(ln)
	defer server.Close()
	return untilTerm(func(ctx context.Context) error {
		return server.Serve(ctx, ln)
	})
}

func newProxy(upstream, roots, record string, binding api.Binding) (*proxy.Server, error) {
	pem, err := os.ReadFile(roots)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	recorder, err := openAudit(record)
	if err != nil {
		return nil, err
	}
	entries := []api.Entry{{Name: "BENCH_KEY", Placeholder: placeholder, Binding: binding}}
	swapper := swap.New(entries, memory{}, swap.Agent("bench"))
	policy, err := egress.Parse(egress.Rules{Mode: egress.ModeBound, Bound: swapper.Patterns()})
	if err != nil {
		return nil, err
	}
	dialer, err := dial.New(dial.Config{Policy: policy, Overrides: []string{host + ":443:" + upstream}, Roots: pool})
	if err != nil {
		return nil, err
	}
	authority, err := ca.New()
	if err != nil {
		return nil, err
	}
	server := web.New(web.Config{CA: authority, Dial: dialer, Swap: swapper, Audit: recorder})
	wires := login.Config{Entries: entries, Resolver: memory{}, Dial: dialer, CA: authority, Audit: recorder}
	return proxy.New(proxy.Config{
		Wires:       []proxy.Wire{postgres.New(wires), redis.New(wires)},
		Destination: func(netip.AddrPort) (netip.AddrPort, error) { return netip.MustParseAddrPort("198.18.0.1:443"), nil },
		Names:       oneName{}, Policy: policy, Intercept: swapper.Bound,
		Web: server, Refuse: server.Refuse(), Passthrough: passthrough.New(passthrough.Config{Dial: dialer, Audit: recorder}),
		Audit: recorder,
	}), nil
}

// openAudit opens the journal that a run's proxy writes. It is not closed: what is measured is over by then.
func openAudit(path string) (audit.Recorder, error) {
	if err := os.Remove(path + journal.TailSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	tail, err := journal.CreateTail(path+journal.TailSuffix, [journal.KeySize]byte{1})
	if err != nil {
		return nil, err
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	log, err := journal.OpenLog(file, tail)
	return audit.NewJournalWriter(log, "bench", "bench"), err
}

// memory resolves like a lease that has the value cached.
type memory struct{}

var keyBytes = []byte(key)

func (memory) Resolve(context.Context, api.ResolveRequest) (api.Secret, error) {
	return func() []byte { return keyBytes }, nil
}

// oneName knows every address as host.
type oneName struct{}

func (oneName) Name(netip.Addr) (api.Host, bool) { return host, true }

// relaying is a role that accepts connections, dials the upstream for each, and has between close both.
func relaying(name string, between func(client, server *net.TCPConn)) func(args []string) error {
	return func(args []string) error { return relayBetween(name, between, args) }
}

func relayBetween(name string, between func(client, server *net.TCPConn), args []string) error {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	upstream := set.String("upstream", "", "address of the upstream")
	if err := set.Parse(args); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ready(ln)
	return untilTerm(func(ctx context.Context) error {
		context.AfterFunc(ctx, func() { ln.Close() })
		for {
			client, err := ln.Accept()
			if err != nil {
				return nil
			}
			go func() {
				server, err := net.Dial("tcp", *upstream)
				if err != nil {
					client.Close()
					return
				}
				between(client.(*net.TCPConn), server.(*net.TCPConn))
			}()
		}
	})
}

// splice copies bytes between two TCP connections in the kernel (splice(2), which io.Copy uses): the least that any
// relay costs.
func splice(client, server *net.TCPConn) {
	defer client.Close()
	defer server.Close()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.CloseWrite()
		close(done)
	}()
	_, _ = io.Copy(client, server)
	_ = client.CloseWrite()
	<-done
}
