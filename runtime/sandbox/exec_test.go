package sandbox_test

import (
	"strings"
	"testing"

	"github.com/superserve/superserve/runtime/sandbox"
)

// What is not UTF-8 would arrive as something else, as in a run: the words cross as JSON.
func TestExecTakesUTF8Only(t *testing.T) {
	for want, cfg := range map[string]sandbox.ExecConfig{
		"word 2 of the command is not UTF-8":               {Command: []string{"echo", "\xff"}},
		`the value of "K" in the environment is not UTF-8`: {Command: []string{"env"}, Env: []string{"K=\xff"}},
		"the folder to start in is not UTF-8":              {Command: []string{"pwd"}, Dir: "/\xff"},
	} {
		if _, err := sandbox.Exec(t.Context(), t.TempDir(), "none", cfg); err == nil || err.Error() != want || strings.Contains(err.Error(), "\xff") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
