package cli

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Where certificates are, as in Go's crypto/x509 (root_linux.go): the first file that can be read, and every
// directory.
var (
	rootFiles = []string{
		"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
		"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
	}
	rootDirs = []string{"/etc/ssl/certs", "/etc/pki/tls/certs"}
)

// roots are certificates as they were read. Reading the host's 140 takes 2 ms, parsing them 13 (2026-11-23), which is
// for whoever needs them first; crypto/x509 does both at once, and on Debian meets each three times.
type roots struct{ texts [][]byte }

// readRoots reads certificates. Like x509.SystemCertPool it gives an error only if there are none.
func readRoots(files, dirs []string) (*roots, error) {
	r := new(roots)
	var first error
	read := func(name string) bool {
		text, err := os.ReadFile(name)
		if err == nil {
			r.texts = append(r.texts, text)
		} else if first == nil && !errors.Is(err, fs.ErrNotExist) {
			first = err
		}
		return err == nil
	}
	bundle := ""
	for _, name := range files {
		if read(name) {
			bundle = name
			break
		}
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && first == nil && !errors.Is(err, fs.ErrNotExist) {
			first = err
		}
		for _, e := range entries {
			if name := filepath.Join(dir, e.Name()); name != bundle && !linksBeside(name, e) {
				read(name)
			}
		}
	}
	if len(r.texts) > 0 {
		first = nil
	}
	return r, first
}

// linksBeside reports whether a directory's entry is a link to another of the same directory, as those are which
// OpenSSL finds certificates by.
func linksBeside(name string, e fs.DirEntry) bool {
	if e.Type()&fs.ModeSymlink == 0 {
		return false
	}
	target, err := os.Readlink(name)
	return err == nil && !strings.Contains(target, "/")
}

// add takes PEM in, of which something must be a certificate.
func (r *roots) add(text []byte) error {
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return errors.New("no certificate in it")
	}
	r.texts = append(r.texts, text)
	return nil
}

// pool parses what was read.
func (r *roots) pool() *x509.CertPool {
	p := x509.NewCertPool()
	for _, text := range r.texts {
		p.AppendCertsFromPEM(text)
	}
	r.texts = nil
	return p
}
