package bundle

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Where programs look for certificate authorities, found by taking one place after the other away:
// trustFile is enough for Go, PHP, Ruby, Perl, Python, curl, MySQL and Redis, javaFile for the JVM; runFile holds only
// this run's CA, for programs that add a file to a list of their own.
const (
	trustFile = "/etc/ssl/certs/ca-certificates.crt"
	javaFile  = "/etc/ssl/certs/java/cacerts"
	runFile   = "/etc/ssl/certs/superserve.pem"
)

// hostRoots are the places of the host's own list, of which the first that exists is read. The list is the same as in
// Go's crypto/x509.
var hostRoots = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// makeTrust creates the certificate files, empty: the run's CA comes later and is written into them in place, so that
// they may already be mounted elsewhere.
func (b *Bundle) makeTrust() error {
	for _, dir := range []string{"/etc/ssl/certs", "/etc/ssl/certs/java", "/etc/pki/tls/certs", Home + "/.postgresql"} {
		if err := b.mkdir(dir, 0o755, 0); err != nil {
			return err
		}
	}
	for _, file := range []string{trustFile, javaFile, runFile} {
		if err := b.write(file, nil, 0o644, 0); err != nil {
			return err
		}
	}
	for _, l := range []struct{ to, at string }{
		{trustFile, "/etc/ssl/cert.pem"},
		{trustFile, "/etc/pki/tls/certs/ca-bundle.crt"},
		{trustFile, "/etc/pki/tls/cert.pem"},
		{trustFile, Home + "/.postgresql/root.crt"}, // JDBC looks in the home of passwd
	} {
		if err := b.link(l.to, l.at); err != nil {
			return err
		}
	}
	return b.own(Home+"/.postgresql", AgentUID, AgentGID)
}

// coverTrust lays ours over the key stores that JVMs bring along; Debian's are links to javaFile already.
func (b *Bundle) coverTrust(*trees) error {
	for _, pattern := range []string{"/usr/lib/jvm/*/lib/security/cacerts", "/usr/lib/jvm/*/jre/lib/security/cacerts"} {
		matches, err := filepath.Glob(b.inside(pattern))
		if err != nil {
			return err
		}
		for _, m := range matches {
			st, err := os.Lstat(m)
			if err != nil || !st.Mode().IsRegular() {
				continue
			}
			if err := bind(b.inside(javaFile), m); err != nil {
				return err
			}
		}
	}
	return nil
}

// Trust writes the certificate files of the sandbox: the host's roots, Config.Trust, and the run's CA (DER). It must
// return before the agent starts.
func (b *Bundle) Trust(ca []byte) error {
	roots, err := readRoots()
	if err != nil {
		return fmt.Errorf("read host's roots: %w", err)
	}
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca})
	all := bytes.Join([][]byte{roots, b.cfg.Trust, own}, []byte("\n"))
	for file, data := range map[string][]byte{
		trustFile: all,
		runFile:   own,
		javaFile:  keyStore(certificates(all), time.Now()),
	} {
		if err := b.root.WriteFile(rel(file), data, 0o644); err != nil {
			return fmt.Errorf("write trust: %w", err)
		}
	}
	return nil
}

func readRoots() ([]byte, error) {
	for _, name := range hostRoots {
		data, err := os.ReadFile(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
	}
	return nil, nil // a host without roots trusts only the run's CA
}

// certificates returns the DER of each distinct certificate in PEM text.
func certificates(text []byte) [][]byte {
	var out [][]byte
	seen := make(map[string]bool)
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return out
		}
		if block.Type != "CERTIFICATE" || seen[string(block.Bytes)] {
			continue
		}
		seen[string(block.Bytes)] = true
		out = append(out, block.Bytes)
	}
}
