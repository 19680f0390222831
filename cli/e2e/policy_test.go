//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// TestPolicyLooksIntoRequests: a rule with methods and paths holds for a host without a secret, in both versions of
// HTTP, and the agent reads why.
func TestPolicyLooksIntoRequests(t *testing.T) {
	w := newWorld(t, "inspected.example.com")
	dir := agentProject(t, `ask() { curl -sS -o /tmp/body -w "%{http_code} " "$@"; head -c 40 /tmp/body | tr '\n' ' '; grep -o '"reason":"[a-z_]*"' /tmp/body; echo; }
ask --http1.1 https://inspected.example.com/ok/1
ask --http2 https://inspected.example.com/ok/2
ask --http1.1 -d x=1 https://inspected.example.com/ok/3
ask --http2 https://inspected.example.com/other
ask --path-as-is https://inspected.example.com/ok/../other`, `network:
  allow:
    - host: inspected.example.com
      methods: [GET]
      paths: [/ok/**]
`)
	r := w.run(dir)
	for _, want := range []string{"request_not_allowed", "ambiguous_path"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the agent does not read %s:\n%s\n%s", want, r.stdout, r.stderr)
		}
	}
	var paths []string
	for _, req := range w.requests() {
		paths = append(paths, req.Method+" "+req.Path)
	}
	if got := strings.Join(paths, ", "); got != "GET /ok/1, GET /ok/2" {
		t.Errorf("upstream saw %q\n%s", got, r.stdout)
	}
	refused := 0
	for _, l := range w.auditLines(t) {
		if l.Kind == "request" && l.Verdict == "refuse" {
			refused++
		}
	}
	if refused != 3 {
		t.Errorf("%d refusals are in the log, want 3", refused)
	}
}

// TestPolicySetReachesARun closes a host to a running agent and opens it again; the run goes on.
func TestPolicySetReachesARun(t *testing.T) {
	w := newWorld(t, "api.example.com")
	dir := agentProject(t, `echo ready; while read x; do curl -s -o /dev/null -w '%{http_code}\n' https://api.example.com/$x; done`)
	cmd, in, wait := w.start(t, dir)
	_ = cmd
	ask := func(path string) {
		t.Helper()
		if _, err := in.Write([]byte(path + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	set := func(args ...string) {
		t.Helper()
		if r := w.superserve("", append([]string{"policy", "set", "plain"}, args...)...); r.code != 0 || !strings.Contains(r.stdout, "Changed what run") {
			t.Fatalf("policy set %q: exit %d: %s%s", args, r.code, r.stdout, r.stderr)
		}
	}
	id := w.runs(t)[0]
	check := func(want int) {
		t.Helper()
		if r := w.superserve("", "policy", "check", "api.example.com", "--run", id, "--offline"); r.code != want {
			t.Errorf("policy check: exit %d, want %d\n%s%s", r.code, want, r.stdout, r.stderr)
		}
	}
	arrived := func(n int) func() string {
		return func() string {
			if len(w.requests()) < n {
				return "no request yet"
			}
			return ""
		}
	}
	check(0)
	ask("one")
	eventually(t, func() string { // until the agent has its answer: a connection that is refused anew is reset
		if r := w.superserve("", "logs", id); !strings.Contains(r.stdout, "200\n") {
			return "no answer yet: " + r.stdout + r.stderr
		}
		return ""
	})
	set("--deny", "*.example.com")
	check(1)
	ask("two")
	eventually(t, func() string {
		if r := w.superserve("", "audit", "plain"); !strings.Contains(r.stdout, "refuse  api.example.com:443 denied (deny *.example.com)") {
			return r.stdout + r.stderr
		}
		return ""
	})
	if r := w.superserve("", "policy", "set", id, "--allow", "*"); r.code != 1 || !strings.Contains(r.stderr, "bare *") {
		t.Errorf("a policy that does not parse: exit %d: %s", r.code, r.stderr)
	}
	set("--deny", "")
	ask("three")
	eventually(t, arrived(2))
	if c, ok := in.(interface{ Close() error }); ok {
		c.Close()
	}
	r := wait()
	if r.stdout != "200\n403\n200\n" || r.code != 0 {
		t.Errorf("exit %d, the agent read %q\n%s", r.code, r.stdout, r.stderr)
	}
	if n := strings.Count(r.stderr, "api.example.com:443 was refused"); n != 1 {
		t.Errorf("the refusal is said %d times\n%s", n, r.stderr)
	}
}

// TestRefusalsAreSaidOnceEach: a line on stderr for each destination, a line in the log for each refusal.
func TestRefusalsAreSaidOnceEach(t *testing.T) {
	w := newWorld(t, "api.example.com")
	r := w.run(agentProject(t, `for i in 1 2 3; do
curl -s -o /dev/null https://evil.example.com/; curl -s -o /dev/null http://evil.example.com/; curl -s -o /dev/null http://10.0.0.7/; done; echo done`,
		"network: {deny: ['*.example.com']}\n"))
	if r.stdout != "done\n" {
		t.Fatalf("stdout %q\n%s", r.stdout, r.stderr)
	}
	for _, to := range []string{"evil.example.com:443", "evil.example.com:80", "10.0.0.7:80"} {
		if n := strings.Count(r.stderr, to+" was refused"); n != 1 {
			t.Errorf("%s is said %d times, want once\n%s", to, n, r.stderr)
		}
	}
	refused := 0
	for _, l := range w.auditLines(t) {
		if l.Verdict == "refuse" {
			refused++
		}
	}
	if refused != 9 {
		t.Errorf("%d refusals are in the log, want 9", refused)
	}
}
