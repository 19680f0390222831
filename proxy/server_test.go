package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/secretd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// say is a Protocol that answers with its name, so that a client sees who served
// it, and then echoes until the end.
type say struct {
	name  string
	conns chan *Conn
}

func newSay(name string) *say { return &say{name, make(chan *Conn, 16)} }

func (s *say) Name() string { return s.name }

func (s *say) ServeConn(ctx context.Context, c *Conn) error {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	s.conns <- c
	if _, err := c.Write([]byte(s.name + "\n")); err != nil {
		return err
	}
	_, err := io.Copy(c, c)
	return err
}

// names is a Names by table.
type names map[netip.Addr]api.Host

func (n names) Name(a netip.Addr) (api.Host, bool) { h, ok := n[a]; return h, ok }

// events is an audit.Recorder.
type events chan audit.Event

func (e events) Record(ev audit.Event) error { e <- ev; return nil }

// rig is a Server with one destination for every client.
type rig struct {
	*Server
	dest                     netip.AddrPort
	web, refuse, passthrough *say
	events                   events
	addr                     string
}

const (
	boundAddr = "198.18.0.1" // api.x.com, intercepted
	freeAddr  = "198.18.0.2" // free.org
	evilAddr  = "198.18.0.3" // evil.com, denied
)

// patient waits so long that a test which has to wait fails; hasty gives up soon.
var (
	patient = timing{first: time.Hour, refused: time.Hour, quiet: time.Hour, whole: time.Hour}
	hasty   = timing{first: 20 * time.Millisecond, refused: 20 * time.Millisecond, quiet: 20 * time.Millisecond, whole: 20 * time.Millisecond}
)

func newRig(t *testing.T, dest string, wait timing, change ...func(*Config)) *rig {
	t.Helper()
	policy, err := egress.Parse(egress.Rules{Mode: egress.ModePublic, Deny: []string{"evil.com", "9.9.9.9"}})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		dest: netip.MustParseAddrPort(dest), events: make(events, 16),
		web: newSay("web"), refuse: newSay("refuse"), passthrough: newSay("passthrough"),
	}
	cfg := Config{
		Destination: func(netip.AddrPort) (netip.AddrPort, error) { return r.dest, nil },
		Names: names{netip.MustParseAddr(boundAddr): "api.x.com", netip.MustParseAddr(freeAddr): "free.org",
			netip.MustParseAddr(evilAddr): "evil.com"},
		Policy:    policy,
		Intercept: func(h api.Host, port uint16) bool { return h == "api.x.com" },
		Web:       r.web, Refuse: r.refuse, Passthrough: r.passthrough, Audit: r.events,
	}
	for _, f := range change {
		f(&cfg)
	}
	r.Server = New(cfg)
	r.timing = wait
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- r.Serve(t.Context(), l) }()
	t.Cleanup(func() {
		r.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	r.addr = l.Addr().String()
	return r
}

// client connects, says what is given and returns the connection.
func (r *rig) client(t *testing.T, first []byte) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if errors.Is(err, syscall.ECONNRESET) {
		return onlyRead{r: iotest.ErrReader(err)} // it was reset before we looked
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	_, err = c.Write(first)
	if errors.Is(err, syscall.ECONNRESET) {
		return onlyRead{r: iotest.ErrReader(err)} // the kernel says so once: to the next one who reads it is an end
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// served reads who serves c: the name of a Protocol, or "reset".
func served(t *testing.T, c net.Conn) string {
	t.Helper()
	buf := make([]byte, 0, 16)
	for one := make([]byte, 1); ; {
		_, err := c.Read(one)
		switch {
		case errors.Is(err, syscall.ECONNRESET):
			return "reset"
		case err != nil:
			t.Fatalf("read: %v after %q", err, buf)
		case one[0] == '\n':
			return string(buf)
		}
		buf = append(buf, one[0])
	}
}

func helloFor(t *testing.T, name string) []byte {
	return record(t, &tls.Config{ServerName: name, InsecureSkipVerify: true})
}

func TestServerChooses(t *testing.T) {
	http := []byte("GET / HTTP/1.1\r\n\r\n")
	plain := func(c *Config) { c.Plaintext = func(api.Host, uint16) bool { return true } }
	for _, c := range []struct {
		name, dest string
		first      []byte
		change     func(*Config)
		want       string
		reason     string
	}{
		{"ends TLS of a bound name", boundAddr + ":443", helloFor(t, "api.x.com"), nil, "web", ""},
		{"leaves another server name to rule R1", boundAddr + ":443", helloFor(t, "other.com"), nil, "web", ""},
		{"resets plaintext to a bound name", boundAddr + ":443", http, nil, "reset", ReasonPlaintext},
		{"lets plaintext through where a binding says so", boundAddr + ":80", http, plain, "web", ""},
		{"passes a free name through", freeAddr + ":443", helloFor(t, "free.org"), nil, "passthrough", ""},
		{"passes anything through on a free name", freeAddr + ":80", http, nil, "passthrough", ""},
		{"passes an address through", "1.1.1.1:443", helloFor(t, ""), nil, "passthrough", ""},
		{"passes a mapped address through", "[::ffff:1.1.1.1]:443", helloFor(t, ""), nil, "passthrough", ""},
		{"answers a refused name", evilAddr + ":443", helloFor(t, "evil.com"), nil, "refuse", egress.ReasonDenied},
		{"resets a refused name without TLS", evilAddr + ":80", http, nil, "reset", egress.ReasonDenied},
		{"resets a refused name where the server speaks first", evilAddr + ":22", nil, nil, "reset", egress.ReasonDenied},
		{"answers a refused address", "9.9.9.9:443", helloFor(t, ""), nil, "refuse", egress.ReasonDenied},
		{"answers a private address", "10.0.0.1:443", helloFor(t, ""), nil, "refuse", egress.ReasonAddress},
		{"answers metadata", "169.254.169.254:443", helloFor(t, ""), nil, "refuse", egress.ReasonAddress},
		{"answers a synthetic address without a name", "198.18.9.9:443", helloFor(t, ""), nil, "refuse", egress.ReasonAddress},
		{"answers a denied server name on a free name", freeAddr + ":443", helloFor(t, "evil.com"), nil, "refuse", egress.ReasonServer},
		{"answers a denied server name on an address", "1.1.1.1:443", helloFor(t, "evil.com"), nil, "refuse", egress.ReasonServer},
		{"answers a bound server name on a free name", freeAddr + ":443", helloFor(t, "api.x.com"), nil, "refuse", egress.ReasonServer},
		{"answers a bound server name on an address", "1.1.1.1:443", helloFor(t, "API.x.com."), nil, "refuse", egress.ReasonServer},
		{"passes an allowed server name on another name", freeAddr + ":443", helloFor(t, "cdn.org"), nil, "passthrough", ""},
		{"resets a malformed hello", freeAddr + ":443", []byte("\x16\x03\x01\x00\x04\x01\x00\x00\x00"), nil, "reset", ReasonHello},
		{"resets a hello that is too long", freeAddr + ":443", []byte("\x16\x03\x01\x40\x00\x01\x01\x00\x00"), nil, "reset", ReasonHello},
		{"passes SSH through at once", freeAddr + ":22", nil, nil, "passthrough", ""},
	} {
		t.Run("it "+c.name, func(t *testing.T) {
			change := c.change
			if change == nil {
				change = func(*Config) {}
			}
			r := newRig(t, c.dest, patient, change)
			conn := r.client(t, c.first)
			if got := served(t, conn); got != c.want {
				t.Errorf("served by %s, want %s", got, c.want)
			}
			if c.want != "reset" && len(c.first) > 0 && c.want != "refuse" {
				echo := make([]byte, len(c.first))
				if _, err := io.ReadFull(conn, echo); err != nil || !slices.Equal(echo, c.first) {
					t.Errorf("the first bytes are not replayed: %v", err)
				}
			}
			if c.reason == "" {
				return
			}
			if e := <-r.events; e.Reason != c.reason || e.Verdict != audit.Refused || e.Port != r.dest.Port() {
				t.Errorf("event = %+v, want the reason %s", e, c.reason)
			}
		})
	}
}

// TestRefusedHelloMayBeLate: on a starved host a client's hello came more than a second
// after its connection, and the agent saw a reset in place of the reason.
func TestRefusedHelloMayBeLate(t *testing.T) {
	slow := patient
	slow.refused = time.Nanosecond // over before any hello
	r := newRig(t, evilAddr+":443", slow)
	c := r.client(t, helloFor(t, "evil.com"))
	if got := served(t, c); got != "refuse" {
		t.Errorf("served by %q, want the answer that says why", got)
	}
	r = newRig(t, evilAddr+":5432", slow)
	if got := served(t, r.client(t, nil)); got != "reset" {
		t.Errorf("served by %q on a port where no hello need come, want a reset", got)
	}
}

func TestServerKnowsTheConnection(t *testing.T) {
	r := newRig(t, boundAddr+":443", patient)
	served(t, r.client(t, helloFor(t, "api.x.com")))
	c := <-r.web.conns
	if c.Host != "api.x.com" || c.Port != 443 || c.ID != 1 || c.Name() != "api.x.com" || c.Hello.ServerName != "api.x.com" || !c.Verdict.Allow {
		t.Errorf("conn = %+v, hello %+v", c, c.Hello)
	}
	if diff := cmp.Diff(Counts{Accepted: 1}, r.Counts()); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestServerRefusesAnEncryptedHelloThatHidesAName(t *testing.T) {
	for name, want := range map[string]Protocol{"public.name": nil, "api.x.com": newSay("web")} {
		s := New(Config{Web: want, Refuse: newSay("refuse"), Audit: make(events, 1)})
		c := &Conn{Conn: onlyRead{}, Host: "api.x.com", Port: 443, Hello: &Hello{ServerName: name, ECH: true}}
		got := s.intercept(c)
		if want == nil && (got == nil || got.Name() != "refuse" || c.Verdict.Reason != ReasonECH) {
			t.Errorf("outer name %s: %v, %+v", name, got, c.Verdict)
		}
		if want != nil && got != want {
			t.Errorf("outer name %s, a browser's decoy: %v", name, got)
		}
	}
}

func TestServerWaitsForNobody(t *testing.T) {
	t.Run("it passes a silent client through after a while", func(t *testing.T) {
		r := newRig(t, freeAddr+":12345", hasty)
		if got := served(t, r.client(t, nil)); got != "passthrough" {
			t.Errorf("served by %s", got)
		}
	})
	t.Run("it resets a silent client of a bound name", func(t *testing.T) {
		r := newRig(t, boundAddr+":443", hasty)
		if got := served(t, r.client(t, nil)); got != "reset" {
			t.Errorf("served by %s", got)
		}
	})
	t.Run("it resets a silent client of a TLS port", func(t *testing.T) {
		r := newRig(t, freeAddr+":443", hasty)
		if got := served(t, r.client(t, nil)); got != "reset" {
			t.Errorf("served by %s", got)
		}
	})
	t.Run("it resets a hello that does not end", func(t *testing.T) {
		r := newRig(t, boundAddr+":443", hasty)
		if got := served(t, r.client(t, helloFor(t, "api.x.com")[:40])); got != "reset" {
			t.Errorf("served by %s", got)
		}
	})
	t.Run("it lets go of a client that leaves", func(t *testing.T) {
		r := newRig(t, boundAddr+":443", patient)
		r.client(t, []byte{22}).Close()
		r.Server.Close()
	})
}

func TestServerRelaysAClientThatOnlyListens(t *testing.T) {
	r := newRig(t, freeAddr+":79", patient)
	conn := r.client(t, nil)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := served(t, conn); got != "passthrough" {
		t.Errorf("served by %s", got)
	}
}

func TestServerRecordsNothingOfAClientThatLeaves(t *testing.T) {
	r := newRig(t, boundAddr+":443", patient)
	conn := r.client(t, nil)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := served(t, conn); got != "reset" || len(r.events) != 0 {
		t.Errorf("served by %s, %d events", got, len(r.events))
	}
}

func TestServerReadsAHelloInPieces(t *testing.T) {
	r := newRig(t, boundAddr+":443", patient)
	hello := helloFor(t, "api.x.com")
	conn := r.client(t, nil)
	for part := range slices.Chunk(hello, 100) {
		if _, err := conn.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if got := served(t, conn); got != "web" {
		t.Errorf("served by %s", got)
	}
}

func TestServerClosesTheUnknown(t *testing.T) {
	r := newRig(t, "1.1.1.1:443", patient, func(c *Config) {
		c.Destination = func(netip.AddrPort) (netip.AddrPort, error) { return netip.AddrPort{}, errors.New("none") }
	})
	if got := served(t, r.client(t, nil)); got != "reset" {
		t.Errorf("served by %s", got)
	}
	if r.Counts().Unknown != 1 {
		t.Errorf("counts = %+v", r.Counts())
	}
}

func TestServerResetsWhatIsOverTheCap(t *testing.T) {
	r := newRig(t, freeAddr+":22", patient, func(c *Config) { c.MaxConns = 2 })
	first, second := r.client(t, nil), r.client(t, nil)
	served(t, first)
	served(t, second)
	if got := served(t, r.client(t, nil)); got != "reset" {
		t.Errorf("the third is served by %s", got)
	}
	if e := <-r.events; e.Reason != ReasonCrowd || e.Verdict != audit.Refused || e.Name != "free.org" {
		t.Errorf("event = %+v", e)
	}
	if r.Counts().Capped != 1 {
		t.Errorf("counts = %+v", r.Counts())
	}
}

func TestServerCapsWhatWebServes(t *testing.T) {
	r := newRig(t, boundAddr+":443", patient, func(c *Config) { c.MaxWeb = 1 })
	hello := helloFor(t, "api.x.com")
	first := r.client(t, hello)
	if got := served(t, first); got != "web" {
		t.Fatalf("the first is served by %s", got)
	}
	if got := served(t, r.client(t, hello)); got != "reset" {
		t.Errorf("the second is served by %s", got)
	}
	if e := <-r.events; e.Reason != ReasonCrowd || e.Rule != "max_web" || e.Verdict != audit.Refused || e.Name != "api.x.com" {
		t.Errorf("event = %+v", e)
	}
	if r.Counts().Capped != 1 {
		t.Errorf("counts = %+v", r.Counts())
	}
}

// A connection that finds no room waits for it, and is served when another ends.
func TestServerWaitsForRoom(t *testing.T) {
	for name, c := range map[string]struct {
		dest  string
		first []byte
		want  string
		limit func(*Config)
	}{
		"all":          {freeAddr + ":22", nil, "passthrough", func(c *Config) { c.MaxConns = 1 }},
		"those of Web": {boundAddr + ":443", helloFor(t, "api.x.com"), "web", func(c *Config) { c.MaxWeb = 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			wait := patient
			wait.crowd = time.Hour
			r := newRig(t, c.dest, wait, c.limit)
			first := r.client(t, c.first)
			served(t, first)
			second := r.client(t, c.first)
			waiting := make(chan string, 1)
			go func() { waiting <- served(t, second) }()
			first.Close()
			if got := <-waiting; got != c.want || r.Counts().Capped != 0 {
				t.Errorf("the second is served by %q, counts %+v, want %s", got, r.Counts(), c.want)
			}
		})
	}
}

// However many come when there is no room, none waits longer than the first.
func TestCrowd(t *testing.T) {
	c := newCrowd(1, t.Context().Done())
	if !c.enter(0) || c.enter(time.Millisecond) {
		t.Fatal("the first has no room, or the second has")
	}
	c.full = c.full.Add(-time.Hour) // that was an hour ago
	if c.enter(time.Hour) {
		t.Error("room for two")
	}
	c.leave()
	if !c.enter(0) || !c.full.IsZero() {
		t.Error("no room, or the next one in vain has no time to wait")
	}
}

func TestServerCloseEndsConnections(t *testing.T) {
	r := newRig(t, freeAddr+":22", patient)
	conn := r.client(t, nil)
	served(t, conn)
	r.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read after Close: %v", err)
	}
	r.Close() // again, without harm
}

func TestServerIsSilentWhenTheRecordFails(t *testing.T) {
	r := newRig(t, evilAddr+":443", patient, func(c *Config) { c.Audit = failing{} })
	if got := served(t, r.client(t, helloFor(t, "evil.com"))); got != "reset" {
		t.Errorf("served by %s", got)
	}
}

type failing struct{}

func (failing) Record(audit.Event) error { return errors.New("disk full") }
