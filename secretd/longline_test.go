package secretd_test

import (
	"strings"
	"testing"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/secretdtest"
)

// TestLongQuestionsSpoilNoLog has whoever holds a run's channel ask for an address that would
// be a line of the audit log which secretd does not read back.
func TestLongQuestionsSpoilNoLog(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "ANTHROPIC_API_KEY", realKey)
	r := grantTo(t, d, "run-1", api.Wanted{Name: "ANTHROPIC_API_KEY"})
	for _, addr := range []string{strings.Repeat("\x01", 16<<10), "fe80::1%" + strings.Repeat("\x01", 16000)} {
		q := r.request("ANTHROPIC_API_KEY", "")
		q.Addr = addr
		if _, err := r.Resolve(t.Context(), q); err == nil {
			t.Error("a value for no address")
		}
	}
	d.Restart()
	if _, err := d.Client.Health(t.Context()); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}
