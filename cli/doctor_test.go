package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/runtime/runsc/runsctest"
	"github.com/superserve/superserve/runtime/sandbox"
)

// TestDoctorWaitsForNoGVisor has the check that starts a sandbox meet a gVisor that hangs.
func TestDoctorWaitsForNoGVisor(t *testing.T) {
	runsctest.Root(t)
	hangs := filepath.Join(t.TempDir(), "runsc")
	script := "#!/bin/sh\n" + `[ "$1" = --version ] && echo runsc version release-99990101.0 || exec /bin/sleep 1000` + "\n"
	if err := os.WriteFile(hangs, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	programs := sandbox.Config{Binary: build(t, "superserve"), Runsc: hangs}
	began := time.Now()
	got := checkBoot(t.Context(), programs, time.Second)
	if got.OK || got.Detail != "no sandbox had started, run and ended after 1s" || !strings.Contains(got.Remedy, "--runsc") {
		t.Errorf("got %+v", got)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v", took)
	}
}
