package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/proxytest"
	"github.com/superserve/superserve/secretd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone is a Resolver by table; it counts its lookups.
type zone struct {
	names map[string][]string
	asked int
}

func (z *zone) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	z.asked++
	texts, ok := z.names[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	var out []netip.Addr
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out, nil
}

func newDialer(t *testing.T, rules egress.Rules, cfg Config) *Dialer {
	t.Helper()
	policy, err := egress.Parse(rules)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Policy = policy
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d.timeout = time.Minute
	return d
}

var (
	public   = egress.Rules{Mode: egress.ModePublic}
	loopback = egress.Rules{Mode: egress.ModePublic, AllowPrivate: []string{"127.0.0.0/8", "::1"}}
)

func TestDialRefusesWhatANameMustNotBe(t *testing.T) {
	for _, addr := range []string{
		"127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "::ffff:10.0.0.1", "169.254.169.254", "168.63.129.16", "100.64.0.1",
		"0.0.0.0", "::", "fe80::1", "fd00:ec2::254", "64:ff9b::a00:1", "2002:7f00:1::", "2001::1", "224.0.0.1", "255.255.255.255", "198.18.0.1",
	} {
		t.Run("it refuses a name at "+addr, func(t *testing.T) {
			z := &zone{names: map[string][]string{"rebind.com.": {addr}}}
			_, err := newDialer(t, public, Config{Resolver: z}).Dial(t.Context(), "rebind.com", netip.Addr{}, 443)
			var e *Error
			var refused *Refused
			if !errors.As(err, &e) || e.Op != OpRefuse || !errors.As(err, &refused) || e.Reason() != egress.ReasonAddress {
				t.Errorf("Dial: %v, want a refusal", err)
			}
			if z.asked != 1 {
				t.Errorf("%d lookups, want 1", z.asked)
			}
		})
	}
}

// TestEveryDialIsJudgedAnew rebinds a name between two dials, and a connection's address
// between two uses: what was good once is not good for ever.
func TestEveryDialIsJudgedAnew(t *testing.T) {
	z := &zone{names: map[string][]string{"rebind.com.": {"93.184.216.34"}}}
	live := egress.NewLive(nil)
	d, err := New(Config{Resolver: z, Policy: live, Overrides: []string{"over.com:443:127.0.0.1:8443"}})
	if err != nil {
		t.Fatal(err)
	}
	set := func(r egress.Rules) {
		p, err := egress.Parse(r)
		if err != nil {
			t.Fatal(err)
		}
		live.Set(p)
	}
	good, local := netip.MustParseAddr("93.184.216.34"), netip.MustParseAddr("127.0.0.1")
	set(public)
	if targets, err := d.resolve(t.Context(), "rebind.com", 443); err != nil || len(targets) != 1 {
		t.Fatalf("resolve: %v, %v", targets, err)
	}
	z.names["rebind.com."] = []string{"169.254.169.254"}
	if _, err := d.Dial(t.Context(), "rebind.com", netip.Addr{}, 443); err == nil {
		t.Error("the second dial believes the first")
	}
	for _, c := range []struct {
		name  string
		rules egress.Rules
		host  api.Host
		addr  netip.Addr
		want  bool
	}{
		{"keeps a public address", public, "rebind.com", good, true},
		{"drops one that is denied now", egress.Rules{Mode: egress.ModePublic, Deny: []string{"93.184.216.0/24"}}, "rebind.com", good, false},
		{"drops one that is the host's own now", egress.Rules{Mode: egress.ModePublic, Own: func(a netip.Addr) bool { return a == good }}, "rebind.com", good, false},
		{"drops all when the network goes off", egress.Rules{}, "rebind.com", good, false},
		{"drops a private one", public, "rebind.com", local, false},
		{"keeps what the operator named", public, "over.com", local, true},
		{"keeps a literal", public, "", good, true},
		{"drops a literal in no list", egress.Rules{Mode: egress.ModeBound}, "", good, false},
	} {
		t.Run("it "+c.name, func(t *testing.T) {
			set(c.rules)
			if got := d.Recheck(c.host, 443, c.addr); got.Allow != c.want {
				t.Errorf("Recheck = %+v, want allow %v", got, c.want)
			}
		})
	}
}

func TestDialTriesEveryAddress(t *testing.T) {
	l := proxytest.Listen(t)
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	go func() {
		if c, err := l.Accept(); err == nil {
			c.Write([]byte("x"))
			c.Close()
		}
	}()
	// The first is refused by policy, the second by the kernel at once, the third hangs or fails, the last serves.
	z := &zone{names: map[string][]string{"many.com.": {"10.0.0.1", "127.0.0.9", "::1", "127.0.0.1"}}}
	conn, err := newDialer(t, loopback, Config{Resolver: z}).Dial(t.Context(), "many.com", netip.Addr{}, port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, ok := conn.(*net.TCPConn); !ok {
		t.Errorf("a %T: the kernel cannot splice it", conn)
	}
	proxytest.Deadline(t, conn)
	if b, err := io.ReadAll(conn); err != nil || string(b) != "x" {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestDialErrors(t *testing.T) {
	gone := proxytest.Listen(t)
	port := gone.Addr().(*net.TCPAddr).AddrPort().Port()
	gone.Close()
	z := &zone{names: map[string][]string{"down.com.": {"127.0.0.1"}, "empty.com.": nil, "both.com.": {"127.0.0.1", "127.0.0.2"}}}
	d := newDialer(t, loopback, Config{Resolver: z})
	for _, c := range []struct{ host, op, reason string }{
		{"missing.com", OpResolve, ReasonDNS}, {"empty.com", OpResolve, ReasonDNS},
		{"down.com", OpConnect, ReasonRefused}, {"both.com", OpConnect, ReasonRefused},
	} {
		_, err := d.Dial(t.Context(), "", netip.Addr{}, 0)
		if err == nil {
			t.Error("it dials nothing")
		}
		h := api.Host(c.host)
		_, err = d.Dial(t.Context(), h, netip.Addr{}, port)
		var e *Error
		if !errors.As(err, &e) || e.Op != c.op || e.Reason() != c.reason || e.Timeout {
			t.Errorf("Dial(%s): %v (%+v), want %s %s", c.host, err, e, c.op, c.reason)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var e *Error
	if _, err := d.Dial(ctx, "down.com", netip.Addr{}, port); !errors.As(err, &e) || e.Reason() != ReasonCancelled {
		t.Errorf("cancelled: %v", err)
	}
}

func TestDialTimeout(t *testing.T) {
	z := &zone{names: map[string][]string{"slow.com.": {"127.0.0.1"}}}
	d := newDialer(t, loopback, Config{Resolver: z})
	d.timeout = time.Nanosecond
	var e *Error
	if _, err := d.Dial(t.Context(), "slow.com", netip.Addr{}, 1); !errors.As(err, &e) || !e.Timeout || e.Reason() != ReasonTimeout {
		t.Errorf("Dial: %v, want a timeout", err)
	}
}

func TestDialTLS(t *testing.T) {
	u := proxytest.NewUpstream(t)
	overrides := []string{u.Override("api.x.com", 443), u.Override("203.0.113.7", 443)}
	exempt, err := Literals(overrides)
	if err != nil || len(exempt) != 1 {
		t.Fatalf("Literals = %v, %v", exempt, err)
	}
	rules := egress.Rules{Mode: egress.ModePublic, Exempt: exempt}
	d := newDialer(t, rules, Config{Overrides: overrides, Roots: u.Roots, Resolver: &zone{}})
	t.Run("it verifies the name, offers the protocols and resumes", func(t *testing.T) {
		for i := range 2 {
			conn, err := d.DialTLS(t.Context(), "api.x.com", 443, []string{"h2", "http/1.1"})
			if err != nil {
				t.Fatal(err)
			}
			state := conn.ConnectionState()
			if state.NegotiatedProtocol != "h2" || state.DidResume != (i == 1) || state.ServerName != "api.x.com" {
				t.Errorf("connection %d: %s, resumed %v", i, state.NegotiatedProtocol, state.DidResume)
			}
			if i == 0 && state.CurveID != tls.X25519MLKEM768 {
				t.Errorf("key exchange = %v", state.CurveID)
			}
			proxytest.Deadline(t, conn)
			conn.Read(make([]byte, 1)) // takes the ticket, which comes before the server's SETTINGS
			conn.Close()
		}
	})
	t.Run("it verifies an IP literal", func(t *testing.T) {
		_, err := d.DialTLSAddr(t.Context(), netip.MustParseAddr("203.0.113.7"), 443, nil)
		var e *Error // the upstream's leaf follows the SNI, and an IP literal sends none
		if !errors.As(err, &e) || e.Op != OpTLS {
			t.Errorf("DialTLSAddr: %v, want a TLS error", err)
		}
	})
	t.Run("it refuses an unknown authority", func(t *testing.T) {
		d := newDialer(t, rules, Config{Overrides: overrides, Roots: x509.NewCertPool()})
		var e *Error
		if _, err := d.DialTLS(t.Context(), "api.x.com", 443, nil); !errors.As(err, &e) || e.Reason() != ReasonTLSUntrusted {
			t.Errorf("DialTLS: %v", err)
		}
	})
	t.Run("it refuses a certificate of another name", func(t *testing.T) {
		var e *Error
		if _, err := dialWrongName(t); !errors.As(err, &e) || e.Reason() != ReasonTLSName {
			t.Errorf("DialTLS: %v", err)
		}
	})
	t.Run("it refuses what is no TLS", func(t *testing.T) {
		l := proxytest.Listen(t)
		go func() {
			if c, err := l.Accept(); err == nil {
				c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
				c.Close()
			}
		}()
		d := newDialer(t, public, Config{Overrides: []string{"a.com:443:" + l.Addr().String()}})
		var e *Error
		if _, err := d.DialTLS(t.Context(), "a.com", 443, nil); !errors.As(err, &e) || e.Op != OpTLS || strings.Contains(e.Reason(), "name") {
			t.Errorf("DialTLS: %v", err)
		}
	})
}

func dialWrongName(t *testing.T) (*tls.Conn, error) {
	authority, err := ca.New()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := authority.Config("other.com", "")
	if err != nil {
		t.Fatal(err)
	}
	l := tls.NewListener(proxytest.Listen(t), cfg)
	go func() {
		if c, err := l.Accept(); err == nil {
			c.(*tls.Conn).Handshake()
			c.Close()
		}
	}()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.PEM())
	d := newDialer(t, public, Config{Overrides: []string{"a.com:443:" + l.Addr().String()}, Roots: roots})
	return d.DialTLS(t.Context(), "a.com", 443, nil)
}

func TestLazyRootsAreReadOnce(t *testing.T) {
	u := proxytest.NewUpstream(t)
	reads := 0
	d := newDialer(t, public, Config{Overrides: []string{u.Override("a.com", 443)}, LazyRoots: func() *x509.CertPool { reads++; return u.Roots }})
	if reads != 0 {
		t.Error("the roots were read before anything was dialled")
	}
	for range 2 {
		c, err := d.DialTLS(t.Context(), "a.com", 443, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if reads != 1 {
		t.Errorf("the roots were read %d times", reads)
	}
}

func TestDialLiteral(t *testing.T) {
	d := newDialer(t, public, Config{})
	for _, a := range []string{"127.0.0.1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1"} {
		_, err := d.Dial(t.Context(), "", netip.MustParseAddr(a), 80)
		var e *Error
		if !errors.As(err, &e) || e.Op != OpRefuse {
			t.Errorf("Dial(%s): %v, want a refusal", a, err)
		}
	}
}

func TestParseOverrides(t *testing.T) {
	got, err := parseOverrides([]string{
		"api.x.com:443:127.0.0.1:9443", "API.x.com.:443:127.0.0.2", "b.com:80:[::1]:81", "b.com:81:[::1]", "b.com:82:::1", "[2001:db8::1]:443:10.0.0.1:1", "1.2.3.4:5:6.7.8.9",
	})
	want := overrides{
		{"api.x.com", 443}:   {netip.MustParseAddrPort("127.0.0.1:9443"), netip.MustParseAddrPort("127.0.0.2:443")},
		{"b.com", 80}:        {netip.MustParseAddrPort("[::1]:81")},
		{"b.com", 81}:        {netip.MustParseAddrPort("[::1]:81")},
		{"b.com", 82}:        {netip.MustParseAddrPort("[::1]:82")},
		{"2001:db8::1", 443}: {netip.MustParseAddrPort("10.0.0.1:1")},
		{"1.2.3.4", 5}:       {netip.MustParseAddrPort("6.7.8.9:5")},
	}
	compare := cmp.Options{cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.AllowUnexported(hostPort{})}
	if diff := cmp.Diff(want, got, compare); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, s := range []string{"", "a.com", "a.com:443", "a.com:443:", "a.com:443:b.com:1", "a.com:0:1.2.3.4", "a.com:443:1.2.3.4:0", "*:443:1.2.3.4", "[::1:443:1.2.3.4", "a.com:x:1.2.3.4"} {
		if _, err := parseOverrides([]string{s}); err == nil {
			t.Errorf("it takes %q", s)
		}
	}
}

func TestInterleave(t *testing.T) {
	var in []netip.Addr
	for _, s := range []string{"2001:db8::1", "2001:db8::2", "::ffff:1.1.1.1", "2.2.2.2"} {
		in = append(in, netip.MustParseAddr(s))
	}
	var got []string
	for _, a := range interleave(in) {
		got = append(got, a.String())
	}
	if diff := cmp.Diff([]string{"2001:db8::1", "1.1.1.1", "2001:db8::2", "2.2.2.2"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestErrorIsAnError(t *testing.T) {
	err := newError(OpConnect, syscall.EHOSTUNREACH)
	if !errors.Is(err, syscall.EHOSTUNREACH) || err.Reason() != ReasonUnreachable || !strings.Contains(err.Error(), "connect") {
		t.Errorf("%v: %s", err, err.Reason())
	}
}
