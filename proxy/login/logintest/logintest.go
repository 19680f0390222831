// Package logintest stands a protocol of a database between real drivers and real
// servers: a proxy.Server on the loopback whose every connection goes to one
// destination, and certificates of a test's own authority for that server.
package logintest

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/dial"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/proxytest"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/placeholder"
)

// Host and Port are what every client of a Rig is taken to have connected to.
const (
	Host = "db.example.com"
	Port = 6000
)

// synthetic is the address that stands for Host.
var synthetic = netip.MustParseAddr("198.18.0.1")

// Secret is one secret of a Rig's run.
type Secret struct {
	Name, Value string
	Use         api.UseKind
	Plaintext   bool
}

// Keys is a swap.Resolver of fixed values. It is safe for concurrent use.
type Keys struct {
	mu     sync.Mutex
	values map[string]string
	err    error
	during func()
}

// Resolve gives the value behind a placeholder.
func (k *Keys) Resolve(_ context.Context, r api.ResolveRequest) (api.Secret, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.during != nil {
		k.during()
	}
	value, ok := k.values[r.Placeholder]
	switch {
	case k.err != nil:
		return nil, k.err
	case !ok:
		return nil, api.ErrUnknown
	case r.Host != Host || r.Port != Port:
		return nil, api.ErrHost
	}
	return func() []byte { return []byte(value) }, nil
}

// Fail makes every further Resolve return err.
func (k *Keys) Fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

// During makes every further Resolve call f before it answers.
func (k *Keys) During(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.during = f
}

// Set rotates the value behind a placeholder.
func (k *Keys) Set(placeholder, value string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.values[placeholder] = value
}

// Rig is a proxy with one protocol of a database.
type Rig struct {
	Wire         proxy.Wire
	Addr         netip.AddrPort // of the proxy
	CAFile       string         // the run's authority
	Records      *proxytest.Recorder
	Keys         *Keys
	Placeholders map[string]string // by the secret's name

	policy *egress.Live
	server *proxy.Server
}

// Refuse changes the run's policy to one that allows nothing, and returns how many
// connections that ended.
func (r *Rig) Refuse() int {
	r.policy.Set(&egress.Policy{})
	return r.server.Recheck()
}

// Config is what a Rig is made of.
type Config struct {
	Wire     func(login.Config) proxy.Wire
	Secrets  []Secret
	Upstream netip.AddrPort
	Roots    *x509.CertPool // nil trusts nobody
}

// New starts a Rig, which ends with the test.
func New(t testing.TB, cfg Config) *Rig {
	t.Helper()
	authority, err := ca.New()
	if err != nil {
		t.Fatal(err)
	}
	r := &Rig{
		Records: proxytest.NewRecorder(), Keys: &Keys{values: map[string]string{}}, Placeholders: map[string]string{},
		CAFile: filepath.Join(t.TempDir(), "ca.pem"),
	}
	if err := os.WriteFile(r.CAFile, authority.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	entries := r.entries(t, cfg.Secrets)
	policy, err := egress.Parse(egress.Rules{Mode: egress.ModeBound, Bound: entries[0].Binding.Hosts})
	if err != nil {
		t.Fatal(err)
	}
	roots := cfg.Roots
	if roots == nil {
		roots = x509.NewCertPool()
	}
	dialer, err := dial.New(dial.Config{Policy: policy, Roots: roots, Overrides: []string{fmt.Sprintf("%s:%d:%s", Host, Port, cfg.Upstream)}})
	if err != nil {
		t.Fatal(err)
	}
	r.Wire = cfg.Wire(login.Config{Entries: entries, Resolver: r.Keys, Dial: dialer, CA: authority, Audit: r.Records})
	r.policy = egress.NewLive(policy)
	r.serve(t)
	return r
}

// Password is the password that stands in the placeholder of a secret that is a URL.
func (r *Rig) Password(t testing.TB, name string) string {
	t.Helper()
	u, err := url.Parse(r.Placeholders[name])
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	return password
}

func (r *Rig) entries(t testing.TB, secrets []Secret) []api.Entry {
	t.Helper()
	marker := placeholder.NewMarker()
	var entries []api.Entry
	for _, s := range secrets {
		fake, err := placeholder.Mint(marker, s.Name, []byte(s.Value))
		if err != nil {
			t.Fatal(err)
		}
		r.Keys.values[fake], r.Placeholders[s.Name] = s.Value, fake
		entries = append(entries, api.Entry{Name: s.Name, Placeholder: fake, Binding: api.Binding{
			Hosts: []api.Pattern{{Host: Host, Port: Port}}, Uses: []api.Use{{Kind: s.Use}}, Plaintext: s.Plaintext,
		}})
	}
	return entries
}

func (r *Rig) serve(t testing.TB) {
	t.Helper()
	server := proxy.New(proxy.Config{
		Destination: func(netip.AddrPort) (netip.AddrPort, error) { return netip.AddrPortFrom(synthetic, Port), nil },
		Names:       names{}, Policy: r.policy,
		Intercept: func(api.Host, uint16) bool { return true },
		Web:       nobody{}, Refuse: nobody{}, Passthrough: nobody{},
		Wires: []proxy.Wire{r.Wire}, Audit: r.Records,
	})
	r.server = server
	l := proxytest.Listen(t)
	r.Addr = netip.MustParseAddrPort(l.Addr().String())
	done := make(chan error, 1)
	go func() { done <- server.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

type names struct{}

func (names) Name(a netip.Addr) (api.Host, bool) { return Host, a == synthetic }

// nobody resets whatever reaches it.
type nobody struct{}

func (nobody) Name() string { return "nobody" }

func (nobody) ServeConn(_ context.Context, c *proxy.Conn) error {
	return errors.Join(errors.New("not the protocol's"), c.Reset())
}

// Certificate writes a certificate for names with its key, both readable by their
// owner uid alone, and returns the files and the roots that trust it.
func Certificate(t testing.TB, dir string, uid int, names ...string) (cert, key string, authority *ca.Authority) {
	t.Helper()
	authority, err := ca.New()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := authority.Leaf(names[0])
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	for name, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der},
		filepath.Join(dir, "ca.crt"): {Type: "CERTIFICATE", Bytes: authority.DER()},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(name, uid, -1); uid >= 0 && err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, authority
}

// Roots trusts what an authority signs.
func Roots(a *ca.Authority) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.PEM())
	return pool
}

// Need skips the test when a program is missing, and fails it in CI.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			Missing(t, p)
		}
	}
}

// Missing skips the test for what is missing, and fails it in CI.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing", what)
	}
	t.Skipf("%s is missing: scripts/setup test", what)
}

// Run runs a program for at most a minute, with what is added to an environment that
// has a PATH only, and returns what it wrote.
func Run(t testing.TB, env []string, stdin, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LC_ALL=C.UTF-8"}, env...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
