package sandbox_test

import (
	"bytes"
	"context"
	"testing"

	"go.uber.org/zap/zaptest"

	"github.com/superserve/superserve/runtime/runsc/runsctest"
	"github.com/superserve/superserve/runtime/sandbox"
)

func TestMain(m *testing.M) { runsctest.Main(m) }

// config is a run of a shell's line.
func config(t *testing.T, line string) sandbox.Config {
	t.Helper()
	runsctest.Root(t)
	return sandbox.Config{
		Binary:  runsctest.Binary(t),
		State:   t.TempDir(),
		Command: []string{"/bin/sh", "-c", line},
		Log:     zaptest.NewLogger(t),
		Notice:  func(s string) { t.Log("notice:", s) },
	}
}

// run runs cfg to its end and returns what it wrote to both streams.
func run(t *testing.T, cfg sandbox.Config) (string, sandbox.Result) {
	t.Helper()
	var out bytes.Buffer
	cfg.Stdout, cfg.Stderr = &out, &out
	r, err := sandbox.Run(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), r
}

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name, line string
		code       int
		out        string
	}{
		{"passes zero", "true", 0, ""},
		{"passes a code and output", "echo x; exit 3", 3, "x\n"},
		{"adds 128 to a signal", "kill -TERM $$", 143, ""},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			out, r := run(t, config(t, tt.line))
			if want := (sandbox.Result{Code: tt.code, Reason: sandbox.ReasonExit}); r != want || out != tt.out {
				t.Errorf("%q: got %+v, %q, want %+v, %q", tt.line, r, out, want, tt.out)
			}
		})
	}
}
