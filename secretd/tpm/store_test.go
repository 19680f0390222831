package tpm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/superserve/superserve/secretd"
	"github.com/superserve/superserve/secretd/ledger"
	"github.com/superserve/superserve/secretd/seal"
)

// TestStore has a store whose key and anchor are in the TPM: whoever restores all of its
// files is noticed, and so is another machine.
func TestStore(t *testing.T) {
	ctx, device, state := t.Context(), emulator(t), t.TempDir()
	cfg := secretd.Config{State: state, Keys: Key{Device: device}, AnchorTPM: Counter{Device: device}}
	open := func(cfg secretd.Config) error {
		d, err := secretd.Open(ctx, cfg)
		if err != nil {
			return err
		}
		return d.Close()
	}
	for range 2 {
		if err := open(cfg); err != nil {
			t.Fatal(err)
		}
	}
	kept := t.TempDir()
	if err := os.CopyFS(kept, os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	if _, err := secretd.Rekey(ctx, cfg, Key{Device: device}); err != nil {
		t.Fatal(err)
	}
	if err := open(cfg); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(kept, "secretd"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"store.db", "audit.log", "lock"} {
		if err := os.Chmod(filepath.Join(kept, "secretd", name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := cfg
	old.State = kept
	if err := open(old); !errors.Is(err, ledger.ErrRollback) {
		t.Errorf("all files restored: %v; want ErrRollback", err)
	}
	other := emulator(t)
	moved := secretd.Config{State: state, Keys: Key{Device: other}, AnchorTPM: Counter{Device: other}}
	if err := open(moved); !errors.Is(err, seal.ErrKey) {
		t.Errorf("another TPM: %v; want ErrKey", err)
	}
	old.AcceptRollback = true
	if err := open(old); err != nil {
		t.Errorf("accepted: %v", err)
	}
}
