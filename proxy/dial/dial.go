// Package dial connects to upstreams: it resolves a name once, has the policy
// classify every address, and dials only what was classified. Nothing that an
// agent controls but the name reaches a resolver, and no name is resolved twice,
// so an answer cannot change between the check and the use.
package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/quick"
	"github.com/superserve/superserve/secretd/api"
)

// Timeouts. Once connected there is none: a model may think for an hour.
const (
	connectTimeout = 10 * time.Second // resolving and connecting together
	tlsTimeout     = 10 * time.Second
	// nextAttempt is how long one address is tried before the next one joins in
	// (RFC 8305 §5).
	nextAttempt = 250 * time.Millisecond
	// maxAddrs is how many addresses of a name are tried at most.
	maxAddrs = 16
)

// keepAlive finds a dead upstream in about two minutes, so that a stream that
// waits for an answer ends some time.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 15 * time.Second, Count: 4}

// Resolver looks names up; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Policy judges addresses. *egress.Policy is one, and *egress.Live one that can be
// replaced. It is safe for concurrent use.
type Policy interface {
	Addr(a netip.Addr, port uint16) egress.Decision
	Resolved(a netip.Addr, port uint16) egress.Decision
}

// Config is what a Dialer needs.
type Config struct {
	// Policy classifies addresses; nil refuses all.
	Policy Policy
	// Overrides say where a host is, as curl's --resolve: "HOST:PORT:ADDR:PORT" or
	// "HOST:PORT:ADDR" with the same port. They are the operator's own word, so
	// their addresses are not classified. HOST may be an IP literal.
	Overrides []string
	// Roots are trusted for upstreams; nil means the system's, or those of LazyRoots.
	Roots *x509.CertPool
	// LazyRoots is called once, by the first connection that needs roots, while it
	// is being made: parsing a host's takes 13 ms.
	LazyRoots func() *x509.CertPool
	// Resolver looks names up; nil means Go's own resolver with the system's files.
	Resolver Resolver
}

// Dialer connects to upstreams. It is safe for concurrent use; one serves a run,
// and TLS sessions are resumed within it only.
type Dialer struct {
	policy    Policy
	overrides overrides
	resolver  Resolver
	net       net.Dialer
	tls       *tls.Config
	timeout   time.Duration

	roots func() *x509.CertPool // nil: those of tls
	early sync.Once             // roots was called ahead of its first use
}

// New returns a Dialer. It fails when an override cannot be read.
func New(cfg Config) (*Dialer, error) {
	over, err := parseOverrides(cfg.Overrides)
	if err != nil {
		return nil, err
	}
	d := &Dialer{policy: cfg.Policy, overrides: over, resolver: cfg.Resolver, timeout: connectTimeout}
	if d.policy == nil {
		d.policy = &egress.Policy{}
	}
	if d.resolver == nil {
		d.resolver = &net.Resolver{PreferGo: true}
	}
	if cfg.LazyRoots != nil {
		d.roots = sync.OnceValue(cfg.LazyRoots)
	}
	d.net.KeepAliveConfig = keepAlive
	d.net.SetMultipathTCP(false) // so that the kernel can splice, and middleboxes see plain TCP
	// CurvePreferences stay Go's default upstream: the hybrid with ML-KEM first.
	d.tls = &tls.Config{
		RootCAs:            cfg.Roots,
		MinVersion:         tls.VersionTLS12,
		ClientSessionCache: tls.NewLRUClientSessionCache(128),
		// It is for pages that are shown while they arrive; a request is not.
		DynamicRecordSizingDisabled: true,
	}
	return d, nil
}

// Dial connects to a host by name or, when h is "", to addr. The connection is a
// *net.TCPConn, which the caller closes. The error is an *Error.
func (d *Dialer) Dial(ctx context.Context, h api.Host, addr netip.Addr, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	if h == "" {
		return d.dialLiteral(ctx, addr.Unmap(), port)
	}
	if targets := d.overrides.find(string(h), port); len(targets) > 0 {
		return d.connect(ctx, targets)
	}
	targets, err := d.resolve(ctx, h, port)
	if err != nil {
		return nil, err
	}
	return d.connect(ctx, targets)
}

func (d *Dialer) dialLiteral(ctx context.Context, addr netip.Addr, port uint16) (net.Conn, error) {
	if targets := d.overrides.find(addr.String(), port); len(targets) > 0 {
		return d.connect(ctx, targets)
	}
	if v := d.policy.Addr(addr, port); !v.Allow {
		return nil, &Error{Op: OpRefuse, Err: &Refused{Decision: v}}
	}
	return d.connect(ctx, []netip.AddrPort{netip.AddrPortFrom(addr, port)})
}

// Recheck judges the address of a connection that stands, as Dial would now: policy
// and the host's own addresses change, and a connection that is kept for another use
// must not outlive what it was allowed by.
func (d *Dialer) Recheck(h api.Host, port uint16, a netip.Addr) egress.Decision {
	a = a.Unmap()
	host := string(h)
	if h == "" {
		host = a.String()
	}
	if len(d.overrides.find(host, port)) > 0 || h == "" && d.overrides.leadsTo(a) {
		return egress.Decision{Allow: true, Rule: "resolve"}
	}
	if h == "" {
		return d.policy.Addr(a, port)
	}
	return d.policy.Resolved(a, port)
}

// resolve returns the addresses of h that the policy lets through, in the order
// to try them. The final dot keeps the host's search list out of it.
func (d *Dialer) resolve(ctx context.Context, h api.Host, port uint16) ([]netip.AddrPort, error) {
	addrs, err := d.resolver.LookupNetIP(ctx, "ip", string(h)+".")
	if err != nil {
		return nil, newError(OpResolve, err)
	}
	var targets []netip.AddrPort
	var refused egress.Decision
	for _, a := range interleave(addrs) {
		v := d.policy.Resolved(a, port)
		if !v.Allow {
			refused = v
			continue
		}
		targets = append(targets, netip.AddrPortFrom(a, port))
	}
	switch {
	case len(targets) > 0:
		return targets[:min(len(targets), maxAddrs)], nil
	case refused.Reason != "":
		return nil, &Error{Op: OpRefuse, Err: &Refused{Decision: refused}}
	}
	return nil, &Error{Op: OpResolve, Err: errNoAddress}
}

// interleave keeps the resolver's order (RFC 6724) and alternates the families
// (RFC 8305 §4), so that a host without working IPv6 waits once. Go's resolver
// returns IPv4 in mapped form; what is dialled is IPv4.
func interleave(addrs []netip.Addr) []netip.Addr {
	var first, other []netip.Addr
	for _, a := range addrs {
		a = a.Unmap()
		if len(first) == 0 || a.Is4() == first[0].Is4() {
			first = append(first, a)
		} else {
			other = append(other, a)
		}
	}
	out := make([]netip.Addr, 0, len(addrs))
	for i := range max(len(first), len(other)) {
		if i < len(first) {
			out = append(out, first[i])
		}
		if i < len(other) {
			out = append(out, other[i])
		}
	}
	return out
}

// connect tries the targets, each a little after the one before, and returns the
// first connection that stands. It returns when no attempt runs any more.
func (d *Dialer) connect(ctx context.Context, targets []netip.AddrPort) (net.Conn, error) {
	if len(targets) == 1 {
		return d.attempt(ctx, targets[0])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	race := &race{dialer: d, results: make(chan result)}
	conn, err := race.run(ctx, targets)
	cancel()
	race.drain()
	return conn, err
}

func (d *Dialer) attempt(ctx context.Context, target netip.AddrPort) (net.Conn, error) {
	conn, err := d.net.DialContext(ctx, "tcp", target.String())
	if err != nil {
		return nil, newError(OpConnect, err)
	}
	return conn, nil
}

// race is the attempts of one connect.
type race struct {
	dialer  *Dialer
	results chan result
	running int
}

type result struct {
	conn net.Conn
	err  error
}

func (r *race) start(ctx context.Context, target netip.AddrPort) {
	r.running++
	go func() {
		conn, err := r.dialer.attempt(ctx, target)
		r.results <- result{conn, err}
	}()
}

func (r *race) run(ctx context.Context, targets []netip.AddrPort) (net.Conn, error) {
	timer := time.NewTimer(0) // the first starts at once
	defer timer.Stop()
	var first error
	for r.running > 0 || len(targets) > 0 {
		select {
		case <-timer.C:
		case res := <-r.results:
			r.running--
			if res.err == nil {
				return res.conn, nil
			}
			if first == nil {
				first = res.err
			}
		}
		if len(targets) > 0 {
			r.start(ctx, targets[0])
			targets = targets[1:]
			timer.Reset(nextAttempt)
		}
	}
	return nil, first
}

// drain waits for the losers and closes one that connected all the same.
func (r *race) drain() {
	for ; r.running > 0; r.running-- {
		if res := <-r.results; res.conn != nil {
			res.conn.Close()
		}
	}
}

// DialTLS connects to h and ends a TLS handshake with it that offers alpn (none
// when empty). The certificate is verified for h. The error is an *Error.
func (d *Dialer) DialTLS(ctx context.Context, h api.Host, port uint16, alpn []string) (*tls.Conn, error) {
	d.prepare()
	conn, err := d.Dial(ctx, h, netip.Addr{}, port)
	if err != nil {
		return nil, err
	}
	return d.handshake(ctx, conn, string(h), alpn)
}

// DialTLSAddr is DialTLS for an IP literal, which the certificate must name.
func (d *Dialer) DialTLSAddr(ctx context.Context, addr netip.Addr, port uint16, alpn []string) (*tls.Conn, error) {
	d.prepare()
	conn, err := d.Dial(ctx, "", addr, port)
	if err != nil {
		return nil, err
	}
	return d.handshake(ctx, conn, addr.Unmap().String(), alpn)
}

// prepare parses the roots while the first connection is being made.
func (d *Dialer) prepare() {
	if d.roots != nil {
		d.early.Do(func() { go d.roots() })
	}
}

// Secure ends a TLS handshake over conn, for protocols that begin in clear and
// then turn to TLS, and verifies that the certificate names name. It owns conn and
// closes it when it fails. The error is an *Error.
func (d *Dialer) Secure(ctx context.Context, conn net.Conn, name string, alpn []string) (*tls.Conn, error) {
	return d.handshake(ctx, conn, name, alpn)
}

func (d *Dialer) handshake(ctx context.Context, conn net.Conn, name string, alpn []string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
	defer cancel()
	cfg := d.tls.Clone() // shares the session cache
	cfg.ServerName, cfg.NextProtos = name, alpn
	if d.roots != nil {
		cfg.RootCAs = d.roots()
	}
	client := tls.Client(quick.New(conn), cfg)
	if err := client.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, newError(OpTLS, err)
	}
	return client, nil
}
