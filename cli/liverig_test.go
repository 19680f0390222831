package cli

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/dial"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/login/logintest"
	"github.com/superserve/superserve/proxy/proxytest"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/proxy/web"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/lease"
	"github.com/superserve/superserve/secretd/secretdtest"
)

const (
	liveHost = "api.example.com"
	liveDB   = logintest.Host
)

// The values of the secrets, before a rotation and after it. A database's names another
// user then, which the server tells.
var (
	liveKeys = [2]string{"sk-live-FirstFirstFirstFirst0001", "sk-live-OtherOtherOtherOther0002"}
	livePG   = [2]string{liveURL("postgres", "user_scram", 6001), liveURL("postgres", "user_md5", 6001)}
	liveMy   = [2]string{liveURL("mysql", "alice", 6002), liveURL("mysql", "clara", 6002)}
	liveRd   = [2]string{liveURL("rediss", "", 6003), liveURL("rediss", "alice", 6003)}
)

func liveURL(scheme, user string, port int) string {
	u := url.URL{Scheme: scheme, User: url.UserPassword(user, logintest.Password), Host: fmt.Sprintf("%s:%d", liveDB, port)}
	return u.String()
}

// liveUpstreams are what the agent talks to. They serve every rig.
type liveUpstreams struct {
	web      *httptest.Server
	pg       *logintest.Postgres
	my       *logintest.MariaDB
	rd       *logintest.Redis
	roots    *x509.CertPool
	override []string
}

func newLiveUpstreams(t *testing.T) *liveUpstreams {
	t.Helper()
	authority, err := ca.New()
	if err != nil {
		t.Fatal(err)
	}
	u := &liveUpstreams{pg: logintest.StartPostgres(t), my: logintest.StartMariaDB(t), rd: logintest.StartRedis(t), roots: x509.NewCertPool()}
	for _, a := range []*ca.Authority{authority, u.pg.Authority, u.my.Authority, u.rd.Authority} {
		u.roots.AppendCertsFromPEM(a.PEM())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/key", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, liveHash(r.Header.Get("Authorization")))
	})
	mux.HandleFunc("/events", liveEvents)
	mux.HandleFunc("/socket", liveSocket)
	u.web = httptest.NewUnstartedServer(mux)
	u.web.EnableHTTP2 = true
	u.web.TLS = &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return authority.Leaf(h.ServerName) }}
	u.web.StartTLS()
	t.Cleanup(u.web.Close)
	u.override = []string{
		liveHost + ":443:" + u.web.Listener.Addr().String(), fmt.Sprintf("%s:6001:%s", liveDB, u.pg.Addr),
		fmt.Sprintf("%s:6002:%s", liveDB, u.my.Addr), fmt.Sprintf("%s:6003:%s", liveDB, u.rd.Addr),
	}
	return u
}

// liveHash tells which key came without repeating it.
func liveHash(authorization string) string {
	sum := sha256.Sum256([]byte(authorization))
	return hex.EncodeToString(sum[:])
}

// liveEvents repeats the key for as long as someone listens.
func liveEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		if _, err := fmt.Fprintf(w, "data: %s\n\n", r.Header.Get("Authorization")); err != nil || http.NewResponseController(w).Flush() != nil {
			tick.Stop()
			return
		}
	}
}

func liveSocket(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		return
	}
	defer c.CloseNow()
	ctx := c.CloseRead(r.Context())
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
		if c.Write(ctx, websocket.MessageText, []byte(r.Header.Get("Authorization"))) != nil {
			tick.Stop()
			return
		}
	}
}

// live is one run's proxy with a lease of a real secretd.
type live struct {
	*liveUpstreams
	daemon *secretdtest.Daemon
	agent  string
	fronts map[uint16]netip.AddrPort // by the port that the agent connected to
	fakes  map[string]string         // placeholders by name
	ca     *x509.CertPool
	caFile string
}

func newLive(t *testing.T, u *liveUpstreams, d *secretdtest.Daemon, agent string) *live {
	t.Helper()
	l := &live{liveUpstreams: u, daemon: d, agent: agent, fronts: map[uint16]netip.AddrPort{}, fakes: map[string]string{}}
	l.set(t, 0)
	wanted := []api.Wanted{{Name: "WEB_KEY"}, {Name: "PG_URL"}, {Name: "MY_URL"}, {Name: "RD_URL"}}
	reply, f, err := d.Client.Grant(t.Context(), api.GrantRequest{Agent: agent, Run: agent, Secrets: wanted})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range reply.Entries {
		l.fakes[e.Name] = e.Placeholder
	}
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	p := &proxyRun{}
	grant, err := lease.Open(conn, lease.Options{OnChange: p.changed})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { grant.Close() })
	p.grants = grants{grant}
	l.wire(t, p)
	return l
}

// wire is proxyRun.wire without a sandbox around it.
func (l *live) wire(t *testing.T, p *proxyRun) {
	t.Helper()
	swapper := swap.New(p.grants.entries(), p.grants.resolver())
	policy, err := egress.Parse(egress.Rules{Mode: egress.ModeBound, Bound: swapper.Patterns()})
	if err != nil {
		t.Fatal(err)
	}
	dialer, err := dial.New(dial.Config{Policy: policy, Overrides: l.override, Roots: l.roots})
	if err != nil {
		t.Fatal(err)
	}
	if p.ca, err = ca.New(); err != nil {
		t.Fatal(err)
	}
	l.ca, l.caFile = logintest.Roots(p.ca), filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(l.caFile, p.ca.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	records := proxytest.NewRecorder()
	relay := web.New(web.Config{CA: p.ca, Dial: dialer, Swap: swapper, Audit: records})
	t.Cleanup(func() { relay.Close() })
	p.web.Store(relay)
	wires := p.wires.open(p.grants.entries(), p.grants.resolver(), dialer, p.ca, records)
	for _, port := range []uint16{443, 6001, 6002, 6003} {
		dest := netip.AddrPortFrom(netip.MustParseAddr("198.18.0.2"), port)
		if port == 443 {
			dest = netip.AddrPortFrom(netip.MustParseAddr("198.18.0.1"), port)
		}
		server := proxy.New(proxy.Config{
			Destination: func(netip.AddrPort) (netip.AddrPort, error) { return dest, nil },
			Names:       liveNames{}, Policy: policy, Intercept: swapper.Bound, Web: relay, Refuse: relay.Refuse(),
			Passthrough: relay.Refuse(), Wires: wires, Audit: records,
		})
		ln := proxytest.Listen(t)
		l.fronts[port] = netip.MustParseAddrPort(ln.Addr().String())
		done := make(chan error, 1)
		go func() { done <- server.Serve(context.Background(), ln) }()
		t.Cleanup(func() {
			server.Close()
			<-done
		})
	}
}

type liveNames struct{}

func (liveNames) Name(a netip.Addr) (api.Host, bool) {
	if a == netip.MustParseAddr("198.18.0.1") {
		return liveHost, true
	}
	return liveDB, true
}

// set stores every secret's i-th value.
func (l *live) set(t *testing.T, i int) {
	t.Helper()
	bound := func(name, value string, host api.Host, port uint16, use api.UseKind) api.Setting {
		return api.Setting{Name: name, Value: []byte(value), Binding: &api.Binding{Hosts: []api.Pattern{{Host: host, Port: port}}, Uses: []api.Use{{Kind: use}}}}
	}
	_, err := l.daemon.Client.Set(t.Context(), l.agent, []api.Setting{
		bound("WEB_KEY", liveKeys[i], liveHost, 443, api.UseBearer), bound("PG_URL", livePG[i], liveDB, 6001, api.UsePostgres),
		bound("MY_URL", liveMy[i], liveDB, 6002, api.UseMySQL), bound("RD_URL", liveRd[i], liveDB, 6003, api.UseRedis),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (l *live) delete(t *testing.T, now bool) {
	t.Helper()
	for name := range l.fakes {
		if _, err := l.daemon.Client.Delete(t.Context(), l.agent, name, now); err != nil {
			t.Fatal(err)
		}
	}
}

// fake is the password in a placeholder.
func (l *live) fake(t *testing.T, name string) string {
	t.Helper()
	u, err := url.Parse(l.fakes[name])
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	return password
}

// dial connects as the agent does, with TLS from the first byte.
func (l *live) dial(t *testing.T, name string, port uint16, alpn ...string) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", l.fronts[port].String(), &tls.Config{RootCAs: l.ca, ServerName: name, NextProtos: alpn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// get sends a request over a connection that is kept.
func (l *live) get(c net.Conn, r *bufio.Reader, path string) (*http.Response, error) {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", path, liveHost, l.fakes["WEB_KEY"]); err != nil {
		return nil, err
	}
	return http.ReadResponse(r, nil)
}
