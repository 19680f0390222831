package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/journal"
)

// auditedRun writes the log of a run that has ended, as proxy and supervisor do.
func auditedRun(t *testing.T, state, run, agent string, events ...audit.Event) string {
	t.Helper()
	dir := sandbox.AuditDir(state)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := journal.OpenKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(dir, "20261123T010203Z-"+run)
	tail, err := journal.CreateTail(base+journal.TailSuffix, key.Chain(filepath.Base(base)+journal.LogSuffix))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(base+journal.LogSuffix, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	log, err := journal.OpenLog(f, tail)
	if err != nil {
		t.Fatal(err)
	}
	w := audit.NewJournalWriter(log, run, agent)
	for _, e := range events {
		if err := w.Record(e); err != nil {
			t.Fatal(err)
		}
	}
	err = errors.Join(log.Close(), journal.Settle(base+journal.LogSuffix, base+journal.TailSuffix, func() error {
		return journal.NewSealer(key, base+journal.LogSuffix, agent).Seal(true)
	}))
	if err != nil {
		t.Fatal(err)
	}
	return base + journal.LogSuffix
}

// said runs a command line on a state.
func said(t *testing.T, state string, args ...string) (out, errs string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	sh := &shell{in: os.Stdin, out: &o, err: &e}
	code = sh.execute(t.Context(), append(args, "--state", state))
	return o.String(), e.String(), code
}

func auditedState(t *testing.T) (state, log string) {
	t.Helper()
	state = t.TempDir()
	at := time.Date(2026, 11, 23, 1, 2, 3, 0, time.Local)
	log = auditedRun(t, state, "aaaabbbbcccc", "one",
		audit.Event{Time: at, Kind: audit.Credential, Name: "api.x.com", Port: 443, Method: "POST", Path: "/v1", Secret: "X_KEY", Verdict: audit.Allowed},
		audit.Event{Time: at, Kind: audit.Request, Name: "api.x.com", Port: 443, Method: "POST", Path: "/v1", Status: 200, Verdict: audit.Allowed, Duration: 12 * time.Millisecond},
		audit.Event{Time: at, Kind: audit.Connection, Addr: "10.0.0.1", Port: 80, Verdict: audit.Refused, Rule: "private", Reason: "address_refused"},
		audit.Event{Time: at, Kind: audit.Connection, Name: "a.com", Port: 443, Verdict: audit.Allowed, Sent: 10, Received: 2000},
	)
	auditedRun(t, state, "ddddeeeeffff", "two", audit.Event{Time: at, Kind: audit.Request, Name: "b.com", Port: 443, Path: "/\x1b[2J\u202e", Verdict: audit.Allowed})
	return state, log
}

func TestAuditPrints(t *testing.T) {
	state, _ := auditedState(t)
	one := "2026-11-23 01:02:03.000  aaaabbbbcccc  one  allow   X_KEY to POST api.x.com:443/v1\n" +
		"2026-11-23 01:02:03.000  aaaabbbbcccc  one  allow   POST api.x.com:443/v1 200 12 ms\n" +
		"2026-11-23 01:02:03.000  aaaabbbbcccc  one  refuse  10.0.0.1:80 address_refused (private)\n" +
		"2026-11-23 01:02:03.000  aaaabbbbcccc  one  allow   a.com:443 10 B sent, 2.0 KB received\n"
	two := "2026-11-23 01:02:03.000  ddddeeeeffff  two  allow   b.com:443\n"
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, one + two}, {[]string{"one"}, one}, {[]string{"aaaa"}, one}, {[]string{"ddddeeeeffff"}, two}, {[]string{"two", "-f"}, ""},
	} {
		if len(c.args) == 2 {
			c.args[0], c.want = "ddddeeeeffff", two // follow ends with the run
		}
		out, errs, code := said(t, state, append([]string{"audit"}, c.args...)...)
		if out != c.want || code != 0 || errs != "" {
			t.Errorf("audit %q: %d\n%s\n%s\nwant\n%s", c.args, code, out, errs, c.want)
		}
	}
	if _, errs, code := said(t, state, "audit", "nobody"); code != 1 || !strings.Contains(errs, "unknown run or agent with a record 'nobody'") {
		t.Errorf("audit nobody: %d, %s", code, errs)
	}
	out, _, _ := said(t, state, "audit", "--json")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for _, line := range lines {
		if !json.Valid([]byte(line)) || strings.ContainsRune(line, 0x1b) {
			t.Errorf("line %q", line)
		}
	}
	if len(lines) != 5 {
		t.Errorf("%d lines, want 5", len(lines))
	}
}

func TestAuditVerify(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	state, log := auditedState(t)
	out, errs, code := said(t, state, "audit", "verify")
	if code != 0 || !strings.Contains(out, "✓ 2 logs, 5 lines, 2 seals; head ") || errs != "" {
		t.Fatalf("verify: %d\n%s%s", code, out, errs)
	}
	head := strings.TrimSpace(out[strings.LastIndex(out, " "):])
	if _, _, code := said(t, state, "audit", "verify", "--head", head); code != 0 {
		t.Error("the head is not known again")
	}
	if _, errs, code := said(t, state, "audit", "verify", "--head", strings.Repeat("0", 32)); code != 1 || !strings.Contains(errs, "put back") {
		t.Errorf("a head that never was: %d, %s", code, errs)
	}
	if out, _, code := said(t, state, "audit", "verify", "two"); code != 0 || !strings.Contains(out, "1 logs") {
		t.Errorf("verify two: %d, %s", code, out)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	for want, changed := range map[string][]byte{
		"line 3 was changed":                  bytes.Replace(text, []byte("10.0.0.1"), []byte("10.0.0.2"), 1),
		"3 lines are left of 4":               bytes.Join(lines[:3], nil),
		"line 2 stands where line 1 should b": bytes.Join([][]byte{lines[1], lines[0], lines[2], lines[3]}, nil),
	} {
		if err := os.WriteFile(log, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, errs, code := said(t, state, "audit", "verify"); code != 1 || !strings.Contains(out, want) || !strings.Contains(errs, errChanged.Error()) {
			t.Errorf("want %q: %d\n%s%s", want, code, out, errs)
		}
		if out, _, code := said(t, state, "audit", "verify", "--json"); code != 1 || !strings.Contains(out, fmt.Sprintf("%.20s", want)) {
			t.Errorf("--json: %d\n%s", code, out)
		}
	}
	os.Remove(log)
	if out, _, code := said(t, state, "audit", "verify"); code != 1 || !strings.Contains(out, "the log is gone; it had 4 lines") {
		t.Errorf("a log that is gone: %d\n%s", code, out)
	}
}

// TestAuditPrune: old logs that are whole go, and verification knows; young ones, and one that was changed, stay.
func TestAuditPrune(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	state, log := auditedState(t)
	logs := func() int {
		all, err := sandbox.AuditLogs(state)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if _, errs, code := said(t, state, "audit", "prune"); code != 1 || !strings.Contains(errs, "missing --days N") {
		t.Errorf("without days: code %d, %q", code, errs)
	}
	if out, errs, code := said(t, state, "audit", "prune", "--days", "36500"); code != 0 || logs() != 2 {
		t.Errorf("nothing is that old: code %d, %q %q, %d logs", code, out, errs, logs())
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(log, bytes.Replace(text, []byte("api.x.com"), []byte("api.y.com"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	before := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	var o, e bytes.Buffer
	sh := &shell{in: os.Stdin, out: &o, err: &e, state: state}
	if err := sh.auditPrune(before); !errors.Is(err, errChanged) || logs() != 1 {
		t.Errorf("with a changed log: %v, %d logs, %q", err, logs(), e.String())
	}
	if err := os.WriteFile(log, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sh.auditPrune(before); err != nil || logs() != 0 {
		t.Errorf("with good logs: %v, %d logs", err, logs())
	}
	out, errs, code := said(t, state, "audit", "verify")
	if code != 0 || strings.Count(out, "removed by audit prune") != 2 {
		t.Errorf("afterwards: code %d, %q %q", code, out, errs)
	}
}
