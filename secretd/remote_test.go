package secretd_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/secretdtest"
)

// remote is a daemon that admins on other hosts may reach.
type remote struct {
	t         *testing.T
	dir       string
	authority *secretdtest.Authority
	address   string
}

func startRemote(t *testing.T, admins ...string) *remote {
	t.Helper()
	return startRemoteWith(t, secretd.Config{State: t.TempDir()}, admins...)
}

func startRemoteWith(t *testing.T, cfg secretd.Config, admins ...string) *remote {
	t.Helper()
	r := &remote{t: t, dir: t.TempDir(), authority: secretdtest.NewAuthority(t)}
	cfg.Remote = secretd.Remote{Address: "127.0.0.1:0", ClientCA: r.authority.File, Admins: admins}
	cfg.Remote.Cert, cfg.Remote.Key = r.authority.Issue(r.dir, "localhost")
	d, err := secretd.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := secretd.Listen(filepath.Join(cfg.State, "run", "secretd.sock"), secretd.Sockets{})
	if err != nil {
		t.Fatal(err)
	}
	if sockets.Remote, err = cfg.Remote.Listen(zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	r.address = strings.Replace(sockets.Remote.Addr().String(), "127.0.0.1", "localhost", 1)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Serve(ctx, sockets) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, d.Close()); err != nil {
			t.Error(err)
		}
	})
	return r
}

// as returns a client with a certificate for a name from an authority.
func (r *remote) as(a *secretdtest.Authority, name string) *client.Client {
	r.t.Helper()
	config := &tls.Config{RootCAs: pool(r.t, r.authority.File)}
	if a != nil {
		pair, err := tls.LoadX509KeyPair(a.Issue(r.t.TempDir(), name))
		if err != nil {
			r.t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	c, err := client.NewRemote("https://"+r.address, config)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func pool(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(text) {
		t.Fatal("no certificate")
	}
	return p
}

func TestRemoteVerbs(t *testing.T) {
	r := startRemote(t, "alice")
	c := r.as(r.authority, "alice")
	if names, err := c.Set(t.Context(), "my-agent", []api.Setting{{Name: "MY_KEY", Value: []byte("a-value-of-mine")}}); err != nil || fmt.Sprint(names) != "[MY_KEY]" {
		t.Fatalf("set: %v, %v", names, err)
	}
	p, err := api.ParsePattern("api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Bind(t.Context(), "my-agent", "MY_KEY", api.Binding{Hosts: []api.Pattern{p}}); err != nil {
		t.Fatal(err)
	}
	infos, err := c.List(t.Context(), "my-agent")
	if err != nil || len(infos) != 1 || infos[0].Binding.Hosts[0] != p {
		t.Fatalf("list: %+v, %v", infos, err)
	}
	if _, err := c.Health(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Run("it gives no grant", func(t *testing.T) {
		if _, _, err := c.Grant(t.Context(), api.GrantRequest{Agent: "my-agent", Run: "r", Secrets: []api.Wanted{{Name: "MY_KEY", Expose: true}}}); !errors.Is(err, api.ErrDenied) {
			t.Errorf("by the client: %v", err)
		}
		if status := r.post(t, "/v1/grants", `{"agent":"my-agent","run":"r","secrets":[{"name":"MY_KEY","expose":true}]}`); status != http.StatusBadRequest {
			t.Errorf("past the client: status %d", status)
		}
		if status := r.post(t, "/v1/resume", `{"token":"00"}`); status != http.StatusBadRequest {
			t.Errorf("a resumption: status %d", status)
		}
	})
	if left, err := c.Delete(t.Context(), "my-agent", "MY_KEY", true); err != nil || len(left) != 0 {
		t.Fatalf("delete: %v, %v", left, err)
	}
}

// post sends a request that no client of ours sends.
func (r *remote) post(t *testing.T, path, body string) int {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(r.authority.Issue(t.TempDir(), "alice"))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(t, r.authority.File), Certificates: []tls.Certificate{pair}}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequest(http.MethodPost, "https://"+r.address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(api.VersionHeader, fmt.Sprint(api.Version))
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return response.StatusCode
}

func TestRemoteRefuses(t *testing.T) {
	r := startRemote(t, "alice")
	for name, c := range map[string]*client.Client{
		"a certificate of another name":      r.as(r.authority, "mallory"),
		"a name within a name":               r.as(r.authority, "alice.example.com"),
		"a certificate of another authority": r.as(secretdtest.NewAuthority(t), "alice"),
		"no certificate":                     r.as(nil, ""),
	} {
		t.Run("it refuses "+name, func(t *testing.T) {
			if _, err := c.List(t.Context(), "my-agent"); !errors.Is(err, api.ErrDenied) {
				t.Errorf("got %v; want ErrDenied", err)
			}
		})
	}
	t.Run("it refuses TLS 1.2", func(t *testing.T) {
		_, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: pool(t, r.authority.File), MaxVersion: tls.VersionTLS12})
		if err == nil {
			t.Error("spoke TLS 1.2")
		}
	})
	t.Run("it lets go of who says nothing", func(t *testing.T) {
		conn, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %d, %v", n, err)
		}
	})
	t.Run("a client refuses a server of another authority", func(t *testing.T) {
		c, err := client.NewRemote("https://"+r.address, &tls.Config{RootCAs: pool(t, secretdtest.NewAuthority(t).File), InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		var unknown x509.UnknownAuthorityError
		if _, err := c.Health(t.Context()); !errors.As(err, &unknown) {
			t.Errorf("got %v", err)
		}
	})
	for _, server := range []string{"http://h", "https://", "https://u:p@h", "https://h/path", "https://h?q", "h:1", "https://h:x"} {
		if _, err := client.NewRemote(server, &tls.Config{}); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("%s: %v", server, err)
		}
	}
}

// TestRemoteRotation replaces the certificate of the daemon, then the authority of its
// clients, without a restart.
func TestRemoteRotation(t *testing.T) {
	r := startRemote(t, "alice")
	old := r.as(r.authority, "alice")
	serial := func() string {
		conn, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: pool(t, r.authority.File)})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	if serial() != before {
		t.Fatal("the certificate changes by itself")
	}
	r.authority.Issue(r.dir, "localhost")
	if serial() == before {
		t.Error("a new certificate was not taken over")
	}
	if err := os.WriteFile(filepath.Join(r.dir, "localhost.pem"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Health(t.Context()); err != nil {
		t.Errorf("with a damaged file: %v", err)
	}
	r.authority.Issue(r.dir, "localhost")

	next := secretdtest.NewAuthority(t)
	text, err := os.ReadFile(next.File)
	if err != nil {
		t.Fatal(err)
	}
	own := pool(t, r.authority.File) // the server's stays
	if err := os.WriteFile(r.authority.File+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(r.authority.File+".new", r.authority.File); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Health(t.Context()); !errors.Is(err, api.ErrDenied) {
		t.Errorf("the old authority: %v; want ErrDenied", err)
	}
	pair, err := tls.LoadX509KeyPair(next.Issue(t.TempDir(), "alice"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewRemote("https://"+r.address, &tls.Config{RootCAs: own, Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Health(t.Context()); err != nil {
		t.Errorf("the new authority: %v", err)
	}
}

// TestRemoteAuthorityTakenOut takes an authority out while the rest of the files does not
// fit: nobody of it comes in.
func TestRemoteAuthorityTakenOut(t *testing.T) {
	for name, change := range map[string]func(r *remote) error{
		"its file is empty": func(r *remote) error { return os.WriteFile(r.authority.File, nil, 0o600) },
		"its file is gone":  func(r *remote) error { return os.Remove(r.authority.File) },
		"another is there, and the certificate is damaged": func(r *remote) error {
			text, err := os.ReadFile(secretdtest.NewAuthority(t).File)
			return errors.Join(err, os.WriteFile(filepath.Join(r.dir, "localhost.pem"), nil, 0o600), os.WriteFile(r.authority.File, text, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRemote(t, "alice")
			c := r.as(r.authority, "alice")
			if _, err := c.Health(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := change(r); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Health(t.Context()); err == nil {
				t.Error("it was let in")
			}
		})
	}
}

func TestRemoteNeedsAll(t *testing.T) {
	a := secretdtest.NewAuthority(t)
	cert, key := a.Issue(t.TempDir(), "localhost")
	good := secretd.Remote{Address: "127.0.0.1:0", Cert: cert, Key: key, ClientCA: a.File, Admins: []string{"alice"}}
	for want, change := range map[string]func(*secretd.Remote){
		"nobody may":         func(r *secretd.Remote) { r.Admins = nil },
		"read certificates":  func(r *secretd.Remote) { r.ClientCA = "" },
		"has no certificate": func(r *secretd.Remote) { r.ClientCA = key },
		"do not fit":         func(r *secretd.Remote) { r.Cert = a.File },
		"lets others in": func(r *secretd.Remote) {
			_, r.Key = a.Issue(t.TempDir(), "localhost")
			if err := os.Chmod(r.Key, 0o640); err != nil {
				t.Fatal(err)
			}
		},
	} {
		r := good
		change(&r)
		if l, err := r.Listen(zap.NewNop()); err == nil || !strings.Contains(err.Error(), want) {
			if err == nil {
				l.Close()
			}
			t.Errorf("got %v; want %q", err, want)
		}
	}
}
