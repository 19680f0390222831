package sandbox_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// gVisor that compiles its filters itself starts 40 ms later, and all else is as before: so nothing else would tell that
// a flag of ours, or a new gVisor, asks for others than those that are kept.
func TestGVisorFindsItsFilters(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skipf("no filters are kept for %s", runtime.GOARCH)
	}
	cfg := config(t, "true")
	cfg.Debug = t.TempDir()
	run(t, cfg)
	logs, err := filepath.Glob(filepath.Join(cfg.Debug, "*"))
	if err != nil {
		t.Fatal(err)
	}
	loaded := 0
	for _, name := range logs {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		loaded += strings.Count(string(text), "Loaded precompiled seccomp instructions")
		if _, missing, found := strings.Cut(string(text), "No precompiled program found for config options "); found {
			key, _, _ := strings.Cut(missing, "\n")
			t.Errorf("gVisor compiles a filter itself, for %s", key)
		}
	}
	if loaded != 2 {
		t.Errorf("gVisor loaded %d kept filters, want the sentry's and the gofer's", loaded)
	}
}
