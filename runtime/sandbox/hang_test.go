package sandbox_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/superserve/superserve/runtime/sandbox"
)

// A gVisor that hangs, before it says which one it is or before the agent's first instruction, ends with the context.
func TestGVisorThatHangs(t *testing.T) {
	for name, script := range map[string]string{
		"when it is asked for its version": "exec /bin/sleep 1000",
		"when it is to start":              `[ "$1" = --version ] && echo runsc version release-99990101.0 || exec /bin/sleep 1000`,
	} {
		t.Run("it ends one that hangs "+name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t, "echo started")
			cfg.Runsc = filepath.Join(t.TempDir(), "runsc")
			if err := os.WriteFile(cfg.Runsc, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				_, err := sandbox.Run(ctx, cfg)
				ended <- err
			}()
			select {
			case err := <-ended:
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want the deadline's end", err)
				}
			case <-time.After(time.Minute):
				t.Fatal("it goes on")
			}
			if left, err := os.ReadDir(filepath.Join(cfg.State, "runs")); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}
