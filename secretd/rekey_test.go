package secretd_test

import (
	"path/filepath"
	"testing"

	"github.com/superserve/superserve/secretd"
	"github.com/superserve/superserve/secretd/seal"
)

// TestRekeyToTheSameFile names the file of the key in another way: it is not removed, the
// new key being in it.
func TestRekeyToTheSameFile(t *testing.T) {
	cfg := secretd.Config{State: t.TempDir()}
	d, err := secretd.Open(t.Context(), cfg)
	if err == nil {
		err = d.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	to := seal.File{Path: filepath.Join(cfg.State, "secretd") + "/../secretd/./key"}
	if _, err := secretd.Rekey(t.Context(), cfg, to); err != nil {
		t.Fatal(err)
	}
	if d, err = secretd.Open(t.Context(), cfg); err != nil {
		t.Fatalf("after rekey: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
