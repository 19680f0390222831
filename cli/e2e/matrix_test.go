//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// client is one row of the matrix: a program as its vendor's documentation has it, which prints what is
// in its environment, makes its request, asks the echo for its credential and prints both answers.
type client struct {
	name    string
	secret  string // the variable that the program reads
	value   string // the real key, in the provider's shape
	host    string
	command string
	files   map[string]string
	mount   string            // a folder beside this file to be mounted as /node_modules
	header  map[string]string // what the upstream must see in each request
	proto   string            // "" = any
	answer  string            // what the program prints of a good answer
}

const (
	anthropicKey = "sk-ant-api03-Zk3yRealRealRealRealRealRealRealRealRealRealRealReal0001-AA"
	openaiKey    = "sk-proj-Zk3yRealRealRealRealRealRealRealRealRealRealReal0002"
	githubToken  = "ghp_Zk3yRealRealRealRealRealRealReal0003"
)

var (
	openaiHeader    = map[string]string{"Authorization": "Bearer " + openaiKey}
	anthropicHeader = map[string]string{"X-Api-Key": anthropicKey}
)

const nodeModules = "testdata/node/node_modules"

// clients returns the matrix. Each program stands in testdata/clients under its own name.
func clients() []client {
	python := func(name string) client {
		return client{name: name, secret: "OPENAI_API_KEY", value: openaiKey, host: "api.openai.com",
			command: "python3 py_" + name + ".py", header: openaiHeader, answer: "Hello there"}
	}
	node := func(name string) client {
		return client{name: name, secret: "OPENAI_API_KEY", value: openaiKey, host: "api.openai.com",
			command: "node " + name + ".mjs", mount: nodeModules, header: openaiHeader, answer: "Hello there"}
	}
	with := func(c client, change func(*client)) client { change(&c); return c }
	toAnthropic := func(c *client) {
		c.secret, c.value, c.host, c.header = "ANTHROPIC_API_KEY", anthropicKey, "api.anthropic.com", anthropicHeader
	}
	return []client{
		python("requests"),
		python("urllib"),
		python("httpx"),
		python("aiohttp"),
		with(python("httpx2"), func(c *client) { c.command, c.proto = "python3 py_httpx.py --http2", "HTTP/2.0" }),
		node("fetch"),
		node("axios"),
		node("openai"),
		with(node("anthropic"), toAnthropic),
		with(node("bun"), func(c *client) { c.command = "/node_modules/@oven/bun-linux-x64-baseline/bin/bun run fetch.mjs" }),
		with(node("deno"), func(c *client) { c.command = "/node_modules/@deno/linux-x64-glibc/deno run -A fetch.mjs" }),
		with(python("curl1"), func(c *client) { toAnthropic(c); c.command, c.proto = "sh curl.sh --http1.1", "HTTP/1.1" }),
		with(python("curl2"), func(c *client) { toAnthropic(c); c.command, c.proto = "sh curl.sh --http2", "HTTP/2.0" }),
		with(python("java"), func(c *client) { toAnthropic(c); c.command = "java -XX:+UseSerialGC Main.java" }),
	}
}

// TestClients runs each client in a sandbox of its own: the upstream sees the real key, and nothing that
// the agent sees, no file and no other process does.
func TestClients(t *testing.T) {
	for _, c := range clients() {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.host)
			w.set("matrix", c.secret, c.value)
			w.during = func() { w.scanProcesses(t) }
			dir := w.clientProject(c)
			var flags []string
			if c.mount != "" {
				full, err := filepath.Abs(c.mount)
				if err != nil {
					t.Fatal(err)
				}
				flags = append(flags, "--mount", full+":/node_modules:ro")
			}
			w.wantServed(t, c, w.run(dir, flags...))
		})
	}
}

// clientProject makes an agent of the programs in testdata/clients.
func (w *world) clientProject(c client) string {
	w.t.Helper()
	dir := project(w.t, map[string]string{
		"superserve.yaml": "name: matrix\ncommand: " + c.command + "\nsecrets: [" + c.secret + "]\n",
	})
	if err := os.CopyFS(dir, os.DirFS("testdata/clients")); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// wantServed holds one run to all that a client may expect.
func (w *world) wantServed(t *testing.T, c client, r result) {
	t.Helper()
	if r.code != 0 || !strings.Contains(r.stdout, c.answer) {
		t.Errorf("exit %d, want 0 and %q in\nstdout: %s\nstderr: %s", r.code, c.answer, r.stdout, r.stderr)
	}
	reqs := w.requests()
	if len(reqs) < 2 {
		t.Fatalf("the upstream saw %d requests, want the client's and the echo's\nstderr: %s", len(reqs), r.stderr)
	}
	for _, got := range reqs {
		for name, want := range c.header {
			if got.Header.Get(name) != want {
				t.Errorf("%s %s: the upstream saw %s: %q, want the real key", got.Method, got.Path, name, got.Header.Get(name))
			}
		}
		if c.proto != "" && got.Proto != c.proto {
			t.Errorf("%s %s came as %s, want %s", got.Method, got.Path, got.Proto, c.proto)
		}
	}
	if !strings.Contains(r.stdout, "echo=") || strings.Contains(r.stdout, "env=\n") {
		t.Errorf("the client printed no env= or echo= line:\n%s", r.stdout)
	}
	w.wantClean(t, "stdout", r.stdout)
	w.wantClean(t, "stderr", r.stderr)
	w.scanState(t)
}
