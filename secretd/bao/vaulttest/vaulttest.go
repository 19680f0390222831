// Package vaulttest starts a real Vault server, which scripts/setup builds: integrated
// storage, TLS, the key-value engine (version 2) at kv and the transit engine at transit.
package vaulttest

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/porttest"
)

// Server is a Vault server on 127.0.0.1. It ends with the test.
type Server struct {
	Address string // https://HOST:PORT
	Listen  string // HOST:PORT
	CAFile  string // PEM of the authority of its certificate
	root    string // the token that may do everything
	unseal  string
	dir     string
	client  *http.Client
	process *exec.Cmd
}

// binary returns the path of the server, and skips the test when it is not there, or fails
// it in CI.
func binary(t testing.TB) string {
	t.Helper()
	_, source, _, _ := runtime.Caller(0)
	full := filepath.Join(filepath.Dir(source), "testdata/server/bin/vault")
	if _, err := os.Stat(full); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("the Vault server is missing")
		}
		t.Skip("the Vault server is missing: scripts/setup test")
	}
	return full
}

// Start starts a server of its own for the test, unsealed, with both engines.
func Start(t testing.TB) *Server {
	t.Helper()
	binary(t)
	s := &Server{dir: t.TempDir()}
	s.certificate(t)
	s.Listen = porttest.Reserve(t).String()
	s.Address = "https://" + s.Listen
	s.Run(t)
	t.Cleanup(func() { s.Kill() })
	var made struct {
		Keys []string `json:"keys"`
		Root string   `json:"root_token"`
	}
	s.must(t, http.MethodPut, "sys/init", map[string]int{"secret_shares": 1, "secret_threshold": 1}, &made)
	s.unseal, s.root = made.Keys[0], made.Root
	s.Unseal(t)
	s.must(t, http.MethodPost, "sys/mounts/kv", map[string]any{"type": "kv", "options": map[string]string{"version": "2"}}, nil)
	s.must(t, http.MethodPost, "sys/mounts/transit", map[string]any{"type": "transit"}, nil)
	s.await(t, "the key-value engine", func() bool { // it upgrades itself, and refuses meanwhile
		status, _ := s.Do(http.MethodPost, "kv/data/ready", map[string]any{"data": map[string]string{}}, nil)
		return status == http.StatusOK
	})
	return s
}

// certificate borrows the one of httptest, which is good for 127.0.0.1.
func (s *Server) certificate(t testing.TB) {
	t.Helper()
	donor := httptest.NewUnstartedServer(nil)
	donor.StartTLS()
	pair, leaf := donor.TLS.Certificates[0], donor.Certificate()
	donor.Close()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	s.CAFile = s.write(t, "tls.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}))
	s.write(t, "tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	s.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
}

// Run starts the process, which is sealed then.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	data := filepath.Join(s.dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	s.process = exec.Command(binary(t), "-dir", data, "-listen", s.Listen, "-cluster", porttest.Reserve(t).String(),
		"-cert", s.CAFile, "-key", filepath.Join(s.dir, "tls.key"))
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	s.process.Stderr = &said
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	s.await(t, "the server", func() bool {
		status, _ := s.Do(http.MethodGet, "sys/seal-status", nil, nil)
		return status == http.StatusOK
	})
}

// Unseal opens the storage, and waits until the server answers for it.
func (s *Server) Unseal(t testing.TB) {
	t.Helper()
	s.must(t, http.MethodPut, "sys/unseal", map[string]string{"key": s.unseal}, nil)
	s.await(t, "the unsealed server", func() bool {
		status, _ := s.Do(http.MethodGet, "sys/health", nil, nil)
		return status == http.StatusOK
	})
}

// Seal makes it answer 503.
func (s *Server) Seal(t testing.TB) {
	t.Helper()
	s.must(t, http.MethodPut, "sys/seal", nil, nil)
}

// Kill ends the process as a power cut would.
func (s *Server) Kill() {
	if s.process.ProcessState == nil {
		_ = s.process.Process.Kill()
		_ = s.process.Wait()
	}
}

// Pause makes the server one that takes connections and answers nothing. It returns when the last thread has stopped:
// until then an answer may still come.
func (s *Server) Pause(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGSTOP)
	if err := unix.Waitid(unix.P_PID, s.process.Process.Pid, nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
}

// Resume makes it itself again.
func (s *Server) Resume(t testing.TB) { s.signal(t, syscall.SIGCONT) }

func (s *Server) signal(t testing.TB, what syscall.Signal) {
	t.Helper()
	if err := s.process.Process.Signal(what); err != nil {
		t.Fatal(err)
	}
}

// Policy returns the policy that docs/SECRETD.md tells to give, for the engines as Start
// makes them.
func Policy(t testing.TB) string {
	t.Helper()
	_, source, _, _ := runtime.Caller(0)
	page, err := os.ReadFile(filepath.Join(filepath.Dir(source), "../../../docs/SECRETD.md"))
	if err != nil {
		t.Fatal(err)
	}
	var policy strings.Builder
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, `    path "`) {
			policy.WriteString(line)
		}
	}
	if policy.Len() == 0 {
		t.Fatal("the page has no policy")
	}
	return policy.String()
}

// Token writes a file with a token that has one policy and lives so long.
func (s *Server) Token(t testing.TB, policy string, ttl time.Duration) (path string) {
	t.Helper()
	name := rand.Text()
	s.must(t, http.MethodPut, "sys/policies/acl/"+name, map[string]string{"policy": policy}, nil)
	body := map[string]any{"policies": []string{name}, "no_default_policy": true, "ttl": ttl.String(), "explicit_max_ttl": ttl.String()}
	status, raw := s.Do(http.MethodPost, "auth/token/create", body, nil)
	var made struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	if status != http.StatusOK || json.Unmarshal(raw, &made) != nil || made.Auth.Token == "" {
		t.Fatalf("no token: status %d: %s", status, raw)
	}
	return s.write(t, "token."+name, []byte(made.Auth.Token+"\n"))
}

// Do makes a request with the root token. It returns the answer, and decodes it into reply
// unless that is nil.
func (s *Server) Do(method, path string, body, reply any) (status int, answer []byte) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, []byte(err.Error())
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, s.Address+"/v1/"+path, content)
	if err != nil {
		return 0, []byte(err.Error())
	}
	req.Header.Set("X-Vault-Token", s.root)
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, []byte(err.Error())
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	if err == nil && reply != nil {
		err = json.Unmarshal(answer, reply)
	}
	if err != nil {
		return 0, fmt.Appendf(answer, ": %v", err)
	}
	return resp.StatusCode, answer
}

func (s *Server) must(t testing.TB, method, path string, body, reply any) {
	t.Helper()
	if status, answer := s.Do(method, path, body, reply); status != http.StatusOK && status != http.StatusNoContent {
		t.Fatalf("%s %s: status %d: %s\n%s", method, path, status, answer, s.process.Stderr)
	}
}

func (s *Server) await(t testing.TB, what string, ready func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ready(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s is not ready: %s", what, s.process.Stderr)
		}
	}
}

func (s *Server) write(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
