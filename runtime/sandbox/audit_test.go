package sandbox_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/journal"
)

// verified checks the audit directory of a state and returns the report of its only run.
func verified(t *testing.T, state string) journal.Report {
	t.Helper()
	key, err := journal.ReadKey(sandbox.AuditDir(state))
	if err != nil {
		t.Fatal(err)
	}
	found, err := journal.Verify(sandbox.AuditDir(state), key, nil)
	if err != nil || !found.Good() || len(found.Logs) != 1 {
		t.Fatalf("%+v, %v", found, err)
	}
	return found.Logs[0]
}

func TestAuditIsSealed(t *testing.T) {
	cfg := config(t, "for i in 1 2 3 4 5; do (exec 3<>/dev/tcp/10.0.0.1/80) 2>/dev/null; done; exit 0")
	cfg.Command[0], cfg.Agent = "/bin/bash", "auditor"
	run(t, cfg)
	r := verified(t, cfg.State)
	if r.Lines != 5 || r.Sealed != 5 || !r.Ended || r.Agent != "auditor" {
		t.Errorf("%+v", r)
	}
	if tails, _ := filepath.Glob(filepath.Join(sandbox.AuditDir(cfg.State), "*"+journal.TailSuffix)); len(tails) > 0 {
		t.Errorf("left: %q", tails)
	}
	logs, err := sandbox.AuditLogs(cfg.State)
	if err != nil || len(logs) != 1 || logs[0].Run == "" {
		t.Errorf("AuditLogs: %+v, %v", logs, err)
	}
}

func TestAuditOfARunThatNeverWas(t *testing.T) {
	cfg := config(t, "true")
	cfg.Network.Mode = "no such mode"
	if s, err := sandbox.Start(context.Background(), cfg); err == nil {
		s.Close()
		t.Fatal("it started")
	}
	left, err := os.ReadDir(sandbox.AuditDir(cfg.State))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if filepath.Ext(e.Name()) == journal.TailSuffix {
			t.Errorf("left: %s", e.Name())
		}
	}
}
