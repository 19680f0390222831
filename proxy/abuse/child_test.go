package abuse

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/dial"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/passthrough"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/proxy/web"
	"github.com/superserve/superserve/secretd/api"
)

const (
	host        = "api.example.com"
	placeholder = "sk-test-Zq81Lw0pRUN00001abcdefghijklmnopqrstuvwxyz0123"
	bodyHolder  = "bk-test-Zq81Lw0pRUN00001abcdefghijklmnopqrstuvwxyz0123"
	realKey     = "sk-test-REALREALREALREALREALREALREALREALREALREALREAL01"
)

// childMode is how the test binary, started again, becomes a proxy.
const childMode = "SUPERSERVE_ABUSE_PROXY"

func TestMain(m *testing.M) {
	if config := os.Getenv(childMode); config != "" {
		if err := serveChild(config); err != nil {
			fmt.Fprintln(os.Stderr, "proxy:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// childConfig is what a proxy process is given.
type childConfig struct {
	Upstream string // the address behind host:443
	Roots    string // PEM
	Audit    string // path
	Bodies   bool   // a secret is bound to a field of JSON bodies
	Local    bool   // the name is localhost and the port the proxy's own, for tools that take both from a URL
}

// childStats is what a proxy process says of itself.
type childStats struct {
	Goroutines int
	Read       int64 // bytes from clients, as they came
	Counts     proxy.Counts
}

// counted counts what a listener's connections read.
type counted struct {
	net.Listener
	n atomic.Int64
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConn{c.(*net.TCPConn), l}, nil
}

type countedConn struct {
	*net.TCPConn
	l *counted
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	c.l.n.Add(int64(n))
	return n, err
}

// serveChild is the proxy process: it is wired as cli's, but for the kernel's part, and without a lease.
func serveChild(config string) error {
	debug.SetMemoryLimit(128 << 20) // as cli does
	var cfg childConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv, der, err := newChild(cfg, inner.Addr().(*net.TCPAddr).AddrPort().Port())
	if err != nil {
		return err
	}
	l := &counted{Listener: inner}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		srv.Serve(ctx, l)
	}()
	fmt.Println(inner.Addr(), base64.StdEncoding.EncodeToString(der))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "gc" {
			runtime.GC()
			debug.FreeOSMemory()
		}
		json.NewEncoder(os.Stdout).Encode(childStats{runtime.NumGoroutine(), l.n.Load(), srv.Counts()})
	}
	cancel()
	srv.Close()
	<-ended
	return nil
}

func newChild(cfg childConfig, own uint16) (*proxy.Server, []byte, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(cfg.Roots))
	policy, err := egress.Parse(egress.Rules{Mode: egress.ModePublic})
	if err != nil {
		return nil, nil, err
	}
	name, port := oneName(host), uint16(443)
	if cfg.Local {
		name, port = "localhost", own
	}
	dialer, err := dial.New(dial.Config{Policy: policy, Roots: roots, Overrides: []string{fmt.Sprintf("%s:%d:%s", name, port, cfg.Upstream)}})
	if err != nil {
		return nil, nil, err
	}
	authority, err := ca.New()
	if err != nil {
		return nil, nil, err
	}
	log, err := os.Create(cfg.Audit)
	if err != nil {
		return nil, nil, err
	}
	recorder := audit.NewRunWriter(log, "r-abuse", "abuse")
	relay := web.New(web.Config{CA: authority, Dial: dialer, Swap: swap.New(entries(cfg.Bodies), keys{}), Audit: recorder, Recheck: dialer.Recheck})
	return proxy.New(proxy.Config{
		Destination: func(netip.AddrPort) (netip.AddrPort, error) {
			return netip.AddrPortFrom(netip.MustParseAddr("198.18.0.1"), port), nil
		},
		Names: name, Policy: policy,
		Intercept: func(api.Host, uint16) bool { return true },
		Web:       relay, Refuse: relay.Refuse(), Audit: recorder,
		Passthrough: passthrough.New(passthrough.Config{Dial: dialer, Audit: recorder}),
	}), authority.DER(), nil
}

func entries(bodies bool) []api.Entry {
	at := []api.Pattern{{Host: host}}
	all := []api.Entry{{Name: "TEST_API_KEY", Placeholder: placeholder, Binding: api.Binding{Hosts: at}}}
	if bodies {
		all = append(all, api.Entry{Name: "BODY_KEY", Placeholder: bodyHolder,
			Binding: api.Binding{Hosts: at, Uses: []api.Use{{Kind: "json", Arg: "/token"}}}})
	}
	return all
}

// oneName is the name behind every address.
type oneName api.Host

func (n oneName) Name(netip.Addr) (api.Host, bool) { return api.Host(n), true }

type keys struct{}

func (keys) Resolve(_ context.Context, r api.ResolveRequest) (api.Secret, error) {
	if r.Host != host {
		return nil, api.ErrHost
	}
	key := []byte(realKey)
	return func() []byte { return key }, nil
}

// readAddress takes the first line of a proxy process.
func readAddress(r io.Reader) (addr string, der []byte, out *bufio.Reader, err error) {
	out = bufio.NewReader(r)
	line, err := out.ReadString('\n')
	if err != nil {
		return "", nil, nil, err
	}
	addr, text, _ := strings.Cut(strings.TrimSpace(line), " ")
	der, err = base64.StdEncoding.DecodeString(text)
	return addr, der, out, err
}
