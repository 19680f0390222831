package cli

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
)

func TestHostRootsAreGos(t *testing.T) {
	t.Setenv("SSL_CERT_FILE", "")
	t.Setenv("SSL_CERT_DIR", "")
	want, err := x509.SystemCertPool()
	if err != nil {
		t.Fatal(err)
	}
	got, err := readRoots(rootFiles, rootDirs)
	if err != nil {
		t.Fatal(err)
	}
	if !got.pool().Equal(want) {
		t.Error("the certificates are not those of x509.SystemCertPool")
	}
}

func TestHostRootsOfOneDirectory(t *testing.T) {
	dir := t.TempDir()
	files, dirs := []string{filepath.Join(dir, "none"), filepath.Join(dir, "bundle")}, []string{dir, filepath.Join(dir, "no")}
	for _, name := range []string{"bundle", "a"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "12345678.0")); err != nil {
		t.Fatal(err)
	}
	r, err := readRoots(files, dirs)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.texts) != 2 || string(r.texts[0]) != "bundle" || string(r.texts[1]) != "a" {
		t.Errorf("read %q, want the bundle and a, each once", r.texts)
	}
	if err := r.add([]byte("nothing")); err == nil {
		t.Error("a text without a certificate was taken")
	}
}

func TestHostRootsSayWhyThereAreNone(t *testing.T) {
	unreadable := t.TempDir() // no file
	if r, err := readRoots([]string{unreadable}, nil); err == nil || len(r.texts) != 0 {
		t.Errorf("got %d texts, %v", len(r.texts), err)
	}
}
