//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// auditLine is what the tests look at in a record.
type auditLine struct {
	Kind, Name, Verdict, Secret string
	Seq                         uint64
}

// auditLines verifies the logs and returns what they hold.
func (w *world) auditLines(t *testing.T) []auditLine {
	t.Helper()
	if r := w.superserve("", "audit", "verify"); r.code != 0 {
		t.Fatalf("audit verify: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	r := w.superserve("", "audit", "--json")
	if r.code != 0 || r.stderr != "" {
		t.Fatalf("audit: exit %d: %s", r.code, r.stderr)
	}
	var all []auditLine
	for line := range strings.Lines(r.stdout) {
		var l auditLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		all = append(all, l)
	}
	return all
}

// echoes is a server of one byte a connection.
func echoes(t *testing.T) int {
	t.Helper()
	return listening(t, func(c net.Conn) {
		var b [1]byte
		if _, err := io.ReadFull(c, b[:]); err == nil {
			c.Write(b[:])
		}
	})
}

// TestAuditOfTenThousandConnections: each has its line, and no other has one.
func TestAuditOfTenThousandConnections(t *testing.T) {
	w := newWorld(t, "api.example.com")
	const threads, each = 40, 250
	dir := agentProject(t, fmt.Sprintf(`exec python3 -c '
import socket, threading
def work():
    for i in range(%d):
        s = socket.create_connection(("plain.example.com", 7000), 60)
        s.sendall(b"x"); assert s.recv(1) == b"x"; s.close()
ts = [threading.Thread(target=work) for i in range(%d)]
[t.start() for t in ts]; [t.join() for t in ts]
print("done")'`, each, threads))
	began := time.Now()
	r := w.run(dir, "--resolve", fmt.Sprintf("plain.example.com:7000:127.0.0.1:%d", echoes(t)))
	if r.stdout != "done\n" {
		t.Fatalf("exit %d, stdout %q\n%s", r.code, r.stdout, r.stderr)
	}
	lines := 0
	for _, l := range w.auditLines(t) {
		if l.Kind == "connection" && l.Name == "plain.example.com" && l.Verdict == "allow" {
			lines++
		}
	}
	if lines != threads*each {
		t.Errorf("%d lines of %d connections", lines, threads*each)
	}
	t.Logf("%d connections in %v, %d lines, 0 lost", threads*each, time.Since(began).Round(time.Millisecond), lines)
}

// TestKillLosesNoUseOfAKey kills what writes the log while keys are used: what arrived upstream with a key is in
// the log, which still verifies.
func TestKillLosesNoUseOfAKey(t *testing.T) {
	for _, victim := range []string{"proxy", "supervisor", "both"} {
		t.Run("it survives a kill of the "+victim, func(t *testing.T) {
			w := newWorld(t, "api.openai.com")
			const key = "sk-proj-Zk3yRealRealRealRealRealRealReal0009"
			w.set("plain", "OPENAI_API_KEY", key)
			dir := agentProject(t, `exec python3 -c '
import http.client, os, ssl, threading
def work():
    c = http.client.HTTPSConnection("api.openai.com")
    while True:
        c.request("GET", "/echo", headers={"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}); c.getresponse().read()
ts = [threading.Thread(target=work, daemon=True) for i in range(4)]
print("ready", flush=True)
[t.start() for t in ts]; [t.join() for t in ts]'`, "secrets: [OPENAI_API_KEY]\n")
			_, wait := w.background(t, dir)
			for deadline := time.Now().Add(patience); len(w.requests()) < 500; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d requests", len(w.requests()))
				}
			}
			if victim != "supervisor" {
				for _, id := range descendants(w.supervisor) {
					if strings.HasPrefix(commandLine(id), "superserve proxy") {
						syscall.Kill(id, syscall.SIGKILL)
					}
				}
			}
			if victim != "proxy" {
				syscall.Kill(w.supervisor, syscall.SIGKILL)
			}
			wait()
			uses := 0
			for _, l := range w.auditLines(t) {
				if l.Kind == "credential" && l.Secret == "OPENAI_API_KEY" && l.Verdict == "allow" {
					uses++
				}
			}
			arrived := 0
			for _, r := range w.requests() {
				if r.Header.Get("Authorization") == "Bearer "+key {
					arrived++
				}
			}
			if uses < arrived || uses > arrived+8 || arrived < 500 {
				t.Errorf("%d uses are in the log, %d arrived upstream", uses, arrived)
			}
			t.Logf("%d uses arrived, %d are in the log", arrived, uses)
		})
	}
}
