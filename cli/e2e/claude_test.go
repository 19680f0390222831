//go:build e2e

package e2e

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// claude returns the path of Claude Code's own binary, from the npm registry.
func claude(t *testing.T) string {
	t.Helper()
	arch := map[string]string{"amd64": "x64"}[runtime.GOARCH]
	if arch == "" {
		arch = runtime.GOARCH
	}
	binary, err := filepath.Abs("testdata/node/node_modules/@anthropic-ai/claude-code-linux-" + arch + "/claude")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("%v: make setup", err)
	}
	return binary
}

// claudeAPI plays the model behind Claude Code: its first answer calls a tool, which dumps the environment, and
// its second quotes the key that it was sent, compressed, the way to steal one through an answer.
type claudeAPI struct{ upstream *upstream }

func (c claudeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 32<<20))
	c.upstream.mu.Lock()
	c.upstream.reqs[len(c.upstream.reqs)-1].Body = string(body)
	c.upstream.mu.Unlock()
	if !strings.HasSuffix(r.URL.Path, "/v1/messages") {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"input_tokens":1}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Content-Encoding", "gzip")
	out := gzip.NewWriter(w)
	defer out.Close()
	event := func(kind, data string) {
		fmt.Fprintf(out, "event: %s\ndata: %s\n\n", kind, data)
		out.Flush()
		w.(http.Flusher).Flush()
	}
	event("message_start", `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}`)
	stop := "end_turn"
	switch {
	case strings.Contains(string(body), `"tool_result"`):
		text, _ := json.Marshal("All done; the key was " + r.Header.Get("X-Api-Key"))
		event("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`)
		event("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":`+string(text)+`}}`)
	case strings.Contains(string(body), `"name":"Bash"`):
		stop = "tool_use"
		event("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"toolu_1","name":"Bash","input":{}}}`)
		event("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"command\":\"env; echo made > made\",\"description\":\"look\"}"}}`)
	default: // a title, a summary
		event("content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`)
		event("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"{}"}}`)
	}
	event("content_block_stop", `{"type":"content_block_stop","index":0}`)
	event("message_delta", fmt.Sprintf(`{"type":"message_delta","delta":{"stop_reason":%q,"stop_sequence":null},"usage":{"output_tokens":3}}`, stop))
	event("message_stop", `{"type":"message_stop"}`)
}

// TestClaudeCode runs the real one, as a person does who has it on PATH and a key in the environment: the folder is
// theirs, the key is upstream and nowhere inside, and names that it calls beside its API do not hold it up.
func TestClaudeCode(t *testing.T) {
	binary := claude(t)
	w := newWorld(t, "api.anthropic.com")
	w.extra["api.anthropic.com"] = claudeAPI{w.upstream}
	const key = "sk-ant-api03-RealRealRealRealRealRealRealRealReal0123456789abcdef"
	w.real["ANTHROPIC_API_KEY"] = key
	tools := t.TempDir()
	if err := os.Chmod(tools, 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, binary, filepath.Join(tools, "claude"))
	dir := folder(t, "shop")
	env := slices.Concat(underSudo, []string{"PATH=" + tools + ":/usr/bin:/bin", "ANTHROPIC_API_KEY=" + key})
	args := slices.Concat([]string{"run"}, w.runFlags(), []string{"--network", "bound", "--secret", "ANTHROPIC_API_KEY", "--",
		"claude", "-p", "show me the environment", "--dangerously-skip-permissions", "--output-format", "json"})
	began := time.Now()
	r := w.here(dir, env, args...)
	t.Logf("took %v; stderr: %s", time.Since(began), r.stderr)
	if r.code != 0 || !strings.Contains(r.stdout, "All done; the key was sk-ant-api03-") {
		t.Fatalf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	w.wantClean(t, "what the agent said", r.stdout+r.stderr)
	w.scanState(t)
	w.wantClaudeSeen(t, key)
	if text, err := os.ReadFile(filepath.Join(dir, "made")); err != nil || string(text) != "made\n" {
		t.Errorf("the file that its tool made: %q, %v", text, err)
	}
}

// wantClaudeSeen looks at what arrived: the key in each credential header, and in no body, which holds the tool's dump of
// the environment with the placeholder in it.
func (w *world) wantClaudeSeen(t *testing.T, key string) {
	t.Helper()
	dumped := false
	for _, req := range w.requests() {
		t.Logf("%s %s %s", req.Method, req.Host, req.Path)
		if holds([]byte(req.Body), key) {
			t.Errorf("the body of %s %s holds the key", req.Method, req.Path)
		}
		if strings.HasPrefix(req.Path, "/v1/messages") && req.Header.Get("X-Api-Key") != key {
			t.Errorf("%s came with X-Api-Key %q", req.Path, req.Header.Get("X-Api-Key"))
		}
		dumped = dumped || strings.Contains(req.Body, "ANTHROPIC_API_KEY=sk-ant-api03-")
	}
	if !dumped {
		t.Error("the tool's dump of the environment, with the placeholder, did not come back")
	}
}
