package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"testing"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

// TestBenchProxy is the process that BenchmarkAgainstNginx measures. It writes
// its audit log to a file, as a proxy does, and with WEB_BENCH_PROFILE a profile.
func TestBenchProxy(t *testing.T) {
	front := os.Getenv("WEB_BENCH_FRONT")
	if front == "" {
		return // not started by the benchmark
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if path := os.Getenv("WEB_BENCH_PROFILE"); path != "" {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	}
	l, err := net.Listen("tcp", front)
	if err != nil {
		t.Fatal(err)
	}
	context.AfterFunc(ctx, func() { l.Close() })
	srv := benchServer(t)
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go srv.ServeConn(ctx, &proxy.Conn{Conn: c, Host: benchHost, Port: 443, Hello: &proxy.Hello{ServerName: benchHost}})
	}
}

func benchServer(t *testing.T) *Server {
	dir := os.Getenv("WEB_BENCH_DIR")
	pem, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	authority, err := ca.New()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	entry := api.Entry{Name: "TEST_API_KEY", Placeholder: testPlaceholder, Binding: api.Binding{Hosts: []api.Pattern{{Host: benchHost}}}}
	return New(Config{
		CA: authority, Audit: audit.NewWriter(log),
		Swap: swap.New([]api.Entry{entry}, benchKeys{}),
		Dial: &benchDialer{addr: os.Getenv("WEB_BENCH_UPSTREAM"), cfg: &tls.Config{
			RootCAs: roots, ServerName: benchHost, NextProtos: []string{"http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(0)}},
	})
}

// benchHost is the name in wrk's URL, and so in its hello.
const benchHost = "localhost"

type benchKeys struct{}

func (benchKeys) Resolve(context.Context, api.ResolveRequest) (api.Secret, error) {
	return func() []byte { return benchKey }, nil
}

var benchKey = []byte(testKey)

type benchDialer struct {
	addr string
	cfg  *tls.Config
}

func (d *benchDialer) Dial(context.Context, api.Host, netip.Addr, uint16) (net.Conn, error) {
	return net.Dial("tcp", d.addr)
}

func (d *benchDialer) DialTLS(context.Context, api.Host, uint16, []string) (*tls.Conn, error) {
	c, err := net.Dial("tcp", d.addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(c, d.cfg)
	return conn, conn.Handshake()
}

func (d *benchDialer) DialTLSAddr(context.Context, netip.Addr, uint16, []string) (*tls.Conn, error) {
	return nil, net.ErrClosed
}
