//go:build e2e

package e2e

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// spender answers like the model providers: 1000 tokens in and 100 out, each time.
func spender(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/messages":
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		io.WriteString(z, `{"type":"message","model":"claude-sonnet-4-5-20250929","content":[],"usage":{"input_tokens":1000,"output_tokens":100}}`)
		z.Close()
	case "/v1/responses":
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "event: response.created\ndata: {\"response\":{\"model\":\"gpt-5\",\"usage\":null}}\n\n")
		w.(http.Flusher).Flush()
		io.WriteString(w, "event: response.completed\ndata: {\"response\":{\"model\":\"gpt-5\",\"usage\":{\"input_tokens\":1000,\"output_tokens\":100}}}\n\n")
	}
}

// frugal is an agent that asks until it is refused, over both versions of HTTP, and prints what it gets.
const frugal = `
ask() { curl -sS -o out -w '%{http_code} ' --compressed "$1" -X POST -d '{}' -H "Authorization: Bearer $2" "$3"; }
case $1 in
  anthropic) for v in --http1.1 --http2 --http1.1; do ask $v "$ANTHROPIC_API_KEY" https://api.anthropic.com/v1/messages; done ;;
  openai) for v in --http2 --http1.1; do ask $v "$OPENAI_API_KEY" https://api.openai.com/v1/responses; done ;;
  again) ask --http1.1 "$OPENAI_API_KEY" https://api.openai.com/v1/responses ;;
  often) for i in 1 2 3 4; do ask --http1.1 "$API_TOKEN" https://api.example.com/; done ;;
  batch) ask --http1.1 "$OPENAI_API_KEY" https://api.openai.com/v1/batches ;;
esac
echo; cat out
`

// TestBudgets has runs of one agent reach each limit, alone and together.
func TestBudgets(t *testing.T) {
	w := newWorld(t, "api.anthropic.com", "api.openai.com", "api.example.com")
	for _, h := range w.hosts {
		w.extra[h] = http.HandlerFunc(spender)
	}
	w.set("frugal", "ANTHROPIC_API_KEY", "sk-ant-api03-Zk3yRealRealRealRealRealRealRealRealReal0099")
	w.set("frugal", "OPENAI_API_KEY", "sk-proj-Zk3yRealRealRealRealRealRealRealRealReal0099")
	w.set("frugal", "API_TOKEN", "Zk3yRealRealRealRealReal0099", "--host", "api.example.com")
	dir := project(t, map[string]string{
		"superserve.yaml": `name: frugal
command: sh main.sh
secrets: [ANTHROPIC_API_KEY, OPENAI_API_KEY, API_TOKEN]
limits:
  ANTHROPIC_API_KEY: {usd_per_run: 0.008}
  OPENAI_API_KEY: {tokens_per_day: 3k}
  API_TOKEN: {requests_per_minute: 3}
prices:
  gpt-5: {input: 10, output: 100}
`,
		"main.sh": frugal,
	})
	run := func(what, want string, says ...string) {
		t.Helper()
		r := w.superserve("", append(append([]string{"run"}, w.runFlags()...), dir, "--", what)...)
		first, rest, _ := strings.Cut(r.stdout, "\n")
		if r.code != 0 || strings.TrimSpace(first) != want {
			t.Errorf("%s: exit %d, %q; want %q\n%s%s", what, r.code, first, want, rest, r.stderr)
		}
		for _, s := range says {
			if !strings.Contains(rest+r.stderr, s) {
				t.Errorf("%s: it does not say %q\n%s%s", what, s, rest, r.stderr)
			}
		}
		w.wantClean(t, what, r.stdout+r.stderr)
	}
	// 1000 tokens at 3 dollars a million and 100 at 15 are 0.0045 dollars, so the second answer passes the limit.
	run("anthropic", "200 200 429", `"reason":"budget_exceeded"`, `"secret":"ANTHROPIC_API_KEY"`, "usd_per_run", "a limit of superserve.yaml is reached")
	run("anthropic", "200 200 429")
	run("openai", "200 200")
	run("openai", "200 429", "the limit of 3000 tokens a day is reached")
	run("again", "429")
	run("often", "200 200 200 429", "the limit of 3 requests a minute is reached", "wait ")
	run("batch", "403", "budget_uncountable")
	w.wantSpent(t)
}

// wantSpent wants the counters of the secrets and the cost of the runs.
func (w *world) wantSpent(t *testing.T) {
	t.Helper()
	list := w.superserve("", "secrets", "list", "--wide", "frugal").stdout
	for _, want := range []string{"4 requests, 4.4k tokens, $0.02", "3 requests, 3.3k tokens, $0.06", "3 requests\n"} {
		if !strings.Contains(list, want) {
			t.Errorf("secrets list --wide lacks %q:\n%s", want, list)
		}
	}
	ps := w.superserve("", "ps", "--all").stdout
	if strings.Count(ps, "2.2k/$0.0090") != 2 || !strings.Contains(ps, "2.2k/$0.04") || !strings.Contains(ps, "1.1k/$0.02") {
		t.Errorf("ps --all:\n%s", ps)
	}
	if audit := w.superserve("", "audit", "frugal").stdout; strings.Count(audit, "ANTHROPIC_API_KEY paid 1.1k tokens of claude-sonnet-4-5-20250929 $0.0045 for POST api.anthropic.com:443/v1/messages") != 4 {
		t.Errorf("audit:\n%s", audit)
	}
}

// TestAgentsTogether has several agents in one folder at once, one account's limit over all of them, and what each did
// told apart.
func TestAgentsTogether(t *testing.T) {
	const agents = 4
	w := newWorld(t, "api.anthropic.com")
	w.extra["api.anthropic.com"] = http.HandlerFunc(spender)
	w.set("together", "ANTHROPIC_API_KEY", "sk-ant-api03-Zk3yRealRealRealRealRealRealRealRealReal0099")
	dir := folder(t, "together")
	ended := make(chan result, agents)
	for i := range agents {
		go func() {
			script := fmt.Sprintf(`for i in 1 2; do curl --http1.1 -sS -o /dev/null -X POST -d '{}' -H "x-api-key: $ANTHROPIC_API_KEY" https://api.anthropic.com/v1/messages; done
				echo "$ANTHROPIC_API_KEY" > mine.%d; n=0; while [ "$(ls mine.* | wc -l)" -lt %d ] && [ $((n+=1)) -lt 2000 ]; do sleep 0.05; done; cat mine.*`, i, agents)
			ended <- w.here(dir, nil, append(append([]string{"run"}, w.runFlags()...), "--", "sh", "-c", script)...)
		}()
	}
	for range agents {
		r := <-ended
		lines := strings.Fields(r.stdout)
		distinct := map[string]bool{}
		for _, l := range lines {
			distinct[l] = true
		}
		if r.code != 0 || len(lines) != agents || len(distinct) != agents {
			t.Errorf("exit %d, saw %d placeholders, %d of them distinct\n%s", r.code, len(lines), len(distinct), r.stderr)
		}
		w.wantClean(t, "output", r.stdout+r.stderr)
	}
	if ps := w.superserve("", "ps", "--all").stdout; strings.Count(ps, "2.2k/$0.0090") != agents || strings.Count(ps, " api.anthropic.com ") != agents {
		t.Errorf("ps --all:\n%s", ps)
	}
}
