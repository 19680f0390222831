// Package s3test starts real servers that verify the signatures of AWS, with AWS's own
// names: S3 over a folder, and IAM with STS. They are versitygw's, which scripts/setup
// builds.
package s3test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/porttest"
)

// The names that the servers' certificate is good for, and what they are about.
const (
	Region = "eu-west-1"
	Bucket = "bucket"
	// Host and BucketHost are those of S3: a bucket may stand in the path or the name.
	Host       = "s3." + Region + ".amazonaws.com"
	BucketHost = Bucket + "." + Host
	// IAM is the host of IAM, and STS that of STS, which the same server plays. It knows
	// one region.
	IAM       = "iam.amazonaws.com"
	STS       = "sts." + STSRegion + ".amazonaws.com"
	STSRegion = "us-east-1"
)

// Keys are credentials of AWS. Token is empty for lasting ones.
type Keys struct{ ID, Secret, Token string }

// Server is the two servers, on 127.0.0.1 with TLS. They end with the test.
type Server struct {
	Addr, STSAddr netip.AddrPort
	PEM           []byte // the authority of their certificate
	Roots         *x509.CertPool
	Account       Keys   // may do everything
	Session       Keys   // of a role that may do everything
	Users         string // the file in which IAM's server keeps them, with their keys
	Folder        string // holds a folder for each bucket, with a file for each object
}

// Binary returns the path of a program that scripts/setup builds, and skips the test
// when it is not there, or fails it in CI.
func Binary(t testing.TB, name string) string {
	t.Helper()
	_, source, _, _ := runtime.Caller(0)
	full := filepath.Join(filepath.Dir(source), "../../../../cli/e2e/testdata/s3/bin", name)
	if _, err := os.Stat(full); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing", name)
		}
		t.Skipf("%s is missing: scripts/setup test", name)
	}
	return full
}

// Start starts the servers with one bucket.
func Start(t testing.TB) *Server {
	t.Helper()
	program := Binary(t, "versitygw")
	dir, err := os.MkdirTemp("", "s3")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &Server{
		Account: Keys{ID: "AKIAREALREALREALREAL", Secret: "Zk3y/Real+Real/RealRealRealRealRealReal0"},
		Session: Keys{ID: "ASIAREALREALREALREAL", Secret: "Zk3y/Temp+Real/RealRealRealRealRealReal0", Token: "FwoGZXIvYXdzEREALRealReal//RealReal+token/Real=="},
		Folder:  filepath.Join(dir, "data"),
		Users:   filepath.Join(dir, "iam.json"),
	}
	cert, key := s.certificate(t, dir)
	s.seed(t)
	s.Addr, s.STSAddr = porttest.Reserve(t), porttest.Reserve(t)
	common := []string{"--quiet", "--cert", cert, "--key", key, "--region", Region, "--health", "/healthz", "--access", s.Account.ID, "--secret", s.Account.Secret}
	private := filepath.Join(dir, "iam.sock")
	run(t, s.STSAddr, program, append(common, "--port", s.STSAddr.String(), "iam", "--dir", dir, "--private-ports", private)...)
	s.await(t, s.STSAddr)
	run(t, s.Addr, program, append(common, "--port", s.Addr.String(), "--virtual-domain", Host, "--iam-standalone-endpoint", private, "posix", s.Folder)...)
	s.await(t, s.Addr)
	return s
}

// certificate writes the servers' certificate.
func (s *Server) certificate(t testing.TB, dir string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "s3test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{Host, "*." + Host, IAM, STS}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	s.PEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	s.Roots = x509.NewCertPool()
	s.Roots.AppendCertsFromPEM(s.PEM)
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write(t, cert, s.PEM)
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}))
	return cert, key
}

// seed writes what IAM's server keeps: a role, and a session of it. No client makes one
// here, since STS would want an identity provider that is not on this machine.
func (s *Server) seed(t testing.TB) {
	t.Helper()
	type object = map[string]any
	now := time.Now().UTC()
	const arn = "arn:aws:iam::000000000000:role/agent"
	everything := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	text, err := json.Marshal(object{
		"roles": object{"agent": object{
			"Path": "/", "RoleName": "agent", "RoleID": "AROAREALREALREALREAL", "Arn": arn, "CreateDate": now, "MaxSessionDuration": 3600,
			"AssumeRolePolicyDocument": "{}",
			"Policies":                 object{"inline": []object{{"PolicyName": "all", "PolicyDocument": everything, "CreateDate": now, "UpdateDate": now}}},
		}},
		"sessions": object{s.Session.ID: object{
			"accessKeyId": s.Session.ID, "secretAccessKey": s.Session.Secret, "sessionToken": s.Session.Token,
			"roleArn": arn, "roleName": "agent", "roleId": "AROAREALREALREALREAL", "roleSessionName": "test",
			"createDate": now, "expiration": now.Add(time.Hour),
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.Users, text)
	if err := os.MkdirAll(filepath.Join(s.Folder, Bucket), 0o755); err != nil {
		t.Fatal(err)
	}
}

// run runs a server until the test ends.
func run(t testing.TB, addr netip.AddrPort, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		cmd.Wait()                          //nolint:errcheck // by the signal
		if t.Failed() {
			t.Logf("%s: %s", addr, log.String())
		}
	})
}

// await waits until a server takes connections.
func (s *Server) await(t testing.TB, addr netip.AddrPort) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var c *tls.Conn
		if c, err = tls.Dial("tcp", addr.String(), &tls.Config{RootCAs: s.Roots, ServerName: Host}); err == nil {
			c.Close()
			return
		}
	}
	t.Fatalf("versitygw does not start: %v", err)
}

func write(t testing.TB, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
