// Package runsctest gives tests the real thing: the superserve binary, which contains gVisor.
package runsctest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Env names a built superserve binary for tests to use; without it one is built.
const Env = "SUPERSERVE_BINARY"

// Root skips the test unless it runs as root; in CI that is a failure.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root")
	}
	t.Skip("needs root")
}

var build = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(Env); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(os.TempDir(), fmt.Sprintf("superserve-test-%d", os.Getpid()))
	// Static: the sentry executes itself again in an empty root.
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "github.com/superserve/superserve/cli/superserve")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build superserve: %w\n%s", err, out)
	}
	return path, nil
})

// Build returns the path of the binary, for examples; tests use Binary.
func Build() (string, error) { return build() }

// Binary returns the path of the binary. The first call builds it.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Main runs a package's tests and removes the binary that they built; call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if os.Getenv(Env) == "" {
		os.Remove(filepath.Join(os.TempDir(), fmt.Sprintf("superserve-test-%d", os.Getpid())))
	}
	os.Exit(code)
}
