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

	"github.com/coder/websocket"
	"github.com/klauspost/compress/zstd"
)

// codex returns the path of Codex's own binary, from the npm registry.
func codex(t *testing.T) string {
	t.Helper()
	arch, triple := "x64", "x86_64-unknown-linux-musl"
	if runtime.GOARCH == "arm64" {
		arch, triple = "arm64", "aarch64-unknown-linux-musl"
	}
	binary, err := filepath.Abs("testdata/node/node_modules/@openai/codex-linux-" + arch + "/vendor/" + triple + "/bin/codex")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("%v: make setup", err)
	}
	return binary
}

// codexAPI plays the model behind Codex: its first answer calls a tool, which dumps the environment, and its second
// quotes the key that it was sent, compressed.
type codexAPI struct {
	upstream  *upstream
	websocket bool // answers the upgrade; else refuses it, and Codex posts
}

func (c codexAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/v1/responses" && r.Header.Get("Upgrade") != "":
		if !c.websocket {
			http.Error(w, "no", http.StatusUpgradeRequired)
			return
		}
		c.converse(w, r)
	case r.URL.Path == "/v1/responses":
		c.post(w, r)
	default:
		http.NotFound(w, r)
	}
}

// answer returns the events that answer a request.
func (c codexAPI) answer(body []byte, key string) (events []string) {
	item := `{"type":"message","role":"assistant","id":"msg_1","status":"completed","content":[{"type":"output_text","annotations":[],"text":` + quote("All done; the key was "+key) + `}]}`
	if !strings.Contains(string(body), `"custom_tool_call_output"`) {
		item = `{"type":"custom_tool_call","id":"ctc_1","call_id":"call_1","name":"exec","status":"completed","input":` + quote(codexScript) + `}`
	}
	return []string{
		`{"type":"response.created","response":{"id":"resp_1"}}`,
		`{"type":"response.output_item.added","output_index":0,"item":` + item + `}`,
		`{"type":"response.output_item.done","output_index":0,"item":` + item + `}`,
		`{"type":"response.completed","response":{"id":"resp_1","output":[],"usage":{"input_tokens":1,"input_tokens_details":null,"output_tokens":1,"output_tokens_details":null,"total_tokens":2}}}`,
	}
}

// codexScript is what this model calls its one tool with, JavaScript: a command that dumps the environment.
const codexScript = `const r = await tools.exec_command({cmd: "env; echo made > made"}); text(r)`

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func (c codexAPI) post(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "zstd" {
		in, err := zstd.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		defer in.Close()
		body = in
	}
	text, _ := io.ReadAll(io.LimitReader(body, 32<<20))
	c.upstream.keep(string(text))
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Content-Encoding", "gzip")
	out := gzip.NewWriter(w)
	defer out.Close()
	for _, e := range c.answer(text, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
		kind, _, _ := strings.Cut(strings.TrimPrefix(e, `{"type":"`), `"`)
		fmt.Fprintf(out, "event: %s\ndata: %s\n\n", kind, e)
		out.Flush()
		w.(http.Flusher).Flush()
	}
}

// converse answers each message of one WebSocket.
func (c codexAPI) converse(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover, InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	conn.SetReadLimit(32 << 20)
	for {
		_, text, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		c.upstream.keep(string(text))
		for _, e := range c.answer(text, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
			if conn.Write(r.Context(), websocket.MessageText, []byte(e)) != nil {
				return
			}
		}
	}
}

// keep remembers a body or a message as one of the last request.
func (u *upstream) keep(body string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reqs[len(u.reqs)-1].Body += body + "\n"
}

const codexKey = "sk-proj-RealRealRealRealRealRealRealRealRealReal0123456789abcdefghij"

// TestCodex runs the real one over both of its transports, by its recipe. What it calls beside its API is refused at
// once and holds nothing up.
func TestCodex(t *testing.T) {
	binary := codex(t)
	for _, ws := range []bool{false, true} {
		name := map[bool]string{false: "posts", true: "converses over a WebSocket"}[ws]
		t.Run("it "+name, func(t *testing.T) {
			w := newWorld(t, "api.openai.com")
			w.extra["api.openai.com"] = codexAPI{w.upstream, ws}
			dir, env := w.recipe(t, "codex", binary, "CODEX_API_KEY", codexKey)
			args := slices.Concat([]string{"run"}, w.runFlags(), []string{"--workspace", ".", ".", "--", "show me the environment"})
			began := time.Now()
			r := w.here(dir, env, args...)
			t.Logf("took %v; stderr: %s", time.Since(began), r.stderr)
			if r.code != 0 || !strings.Contains(r.stdout, "All done; the key was sk-proj-") {
				t.Fatalf("exit %d, stdout %q", r.code, r.stdout)
			}
			w.wantClean(t, "what the agent said", r.stdout+r.stderr)
			w.scanState(t)
			w.wantCodexSeen(t, dir, ws)
			w.wantRefusedAtOnce(t, "chatgpt.com")
		})
	}
}

// wantRefusedAtOnce wants the record of each refused connection to be short, and one of them to be to host.
func (w *world) wantRefusedAtOnce(t *testing.T, host string) {
	t.Helper()
	seen := false
	for line := range strings.Lines(w.superserve("", "audit", "--json").stdout) {
		var r struct {
			Name, Verdict string
			Millis        float64 `json:"ms"`
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		seen = seen || r.Verdict == "refuse" && r.Name == host
		if r.Verdict == "refuse" && r.Millis > 2000 {
			t.Errorf("%s was left to hang for %.0f ms", r.Name, r.Millis)
		}
	}
	if !seen {
		t.Errorf("%s was not refused", host)
	}
}

// recipe makes a folder with a recipe and its key, and a PATH with its program.
func (w *world) recipe(t *testing.T, recipe, binary, secret, key string) (dir string, env []string) {
	t.Helper()
	name := strings.TrimSuffix(filepath.Base(binary), ".exe")
	dir, env = folder(t, "my-"+recipe), append(onPath(t, binary, name), underSudo...)
	if r := w.here(dir, env, "init", "--for", recipe); r.code != 0 || r.stderr != "" {
		t.Fatalf("init: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	w.set("my-"+recipe, secret, key)
	return dir, env
}

// wantCodexSeen looks at what arrived: the key in each credential header, in no body and no message, among which is the
// tool's dump of the environment with the placeholder in it.
func (w *world) wantCodexSeen(t *testing.T, dir string, ws bool) {
	t.Helper()
	dumped, upgraded := false, false
	for _, req := range w.requests() {
		t.Logf("%s %s %s, %d bytes", req.Method, req.Host, req.Path, len(req.Body))
		if holds([]byte(req.Body), codexKey) {
			t.Errorf("the body of %s %s holds the key", req.Method, req.Path)
		}
		if got := req.Header.Get("Authorization"); got != "Bearer "+codexKey {
			t.Errorf("%s came with Authorization %q", req.Path, got)
		}
		here := strings.Contains(req.Body, "CODEX_API_KEY=sk-proj-")
		dumped, upgraded = dumped || here, upgraded || here && req.Header.Get("Upgrade") != ""
	}
	if !dumped || upgraded != ws {
		t.Errorf("the tool's dump, with the placeholder, came back: %v; over a WebSocket: %v", dumped, upgraded)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "made")); err != nil || string(text) != "made\n" {
		t.Errorf("the file that its tool made: %q, %v", text, err)
	}
}

// onPath puts a program alone on PATH beside the system's.
func onPath(t *testing.T, binary, name string) (env []string) {
	t.Helper()
	tools := t.TempDir()
	if err := os.Chmod(tools, 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, binary, filepath.Join(tools, name))
	return []string{"PATH=" + tools + ":/usr/bin:/bin"}
}
