//go:build e2e

package e2e

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The servers answer each message twice, with the key in place of KEY: at once, and in
// fragments that cut it. All of it is compressed, as both do by default.
const (
	pythonSocketServer = `
import asyncio, websockets
async def serve(ws):
    key = ws.request_headers["Authorization"].split()[1]
    await ws.send(repr(ws.extensions))
    async for message in ws:
        text = message.replace("KEY", key)
        await ws.send(text)
        await ws.send([text[i:i+9] for i in range(0, len(text), 9)])
async def main():
    async with websockets.serve(serve, "127.0.0.1", 0, max_size=None) as s:
        print(s.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()
asyncio.run(main())
`
	nodeSocketServer = `
const { WebSocketServer } = require("ws");
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: { threshold: 0 } });
server.on("listening", () => console.log(server.address().port));
server.on("connection", (ws, request) => {
  const key = request.headers.authorization.split(" ")[1];
  ws.send(ws.extensions);
  ws.on("message", (data) => {
    const text = data.toString().replaceAll("KEY", key);
    ws.send(text);
    for (let i = 0; i < text.length; i += 9) ws.send(text.slice(i, i + 9), { fin: i + 9 >= text.length });
  });
});
`
	pythonSocketClient = `
import asyncio, os, sys, websockets
key = os.environ["OPENAI_API_KEY"]
async def main(path):
    async with websockets.connect("wss://api.openai.com/" + path, max_size=None, extra_headers={"Authorization": "Bearer " + key}) as ws:
        server = await ws.recv()
        for n in (0, 100, 70000):
            await ws.send("a" * n + "KEY" + "b" * n)
            want = "a" * n + key + "b" * n
            assert await ws.recv() == want, "at once"
            assert await ws.recv() == want, "in fragments"
        print("python", path, "deflate" in repr(ws.extensions).lower(), "deflate" in server.lower())
for path in ("python", "node"):
    asyncio.run(main(path))
`
	nodeSocketClient = `
import WebSocket from "ws";
const key = process.env.OPENAI_API_KEY, name = process.argv[2];
const talk = (path) => new Promise((resolve, reject) => {
  const ws = new WebSocket("wss://api.openai.com/" + path, { headers: { Authorization: "Bearer " + key } });
  const want = [];
  let server;
  ws.on("error", reject);
  ws.on("message", (data) => {
    const text = data.toString();
    if (server === undefined) {
      server = text;
      for (const n of [0, 100, 70000]) {
        ws.send("a".repeat(n) + "KEY" + "b".repeat(n));
        for (const _ of [1, 2]) want.push("a".repeat(n) + key + "b".repeat(n));
      }
      return;
    }
    if (text !== want.shift()) reject(new Error("another message: " + text.length));
    if (want.length > 0) return;
    console.log(name, path, /deflate/i.test(ws.extensions), /deflate/i.test(server));
    ws.on("close", resolve);
    ws.close();
  });
});
for (const path of ["python", "node"]) await talk(path);
`
)

// TestCompressedWebSockets lets three clients talk to two servers, all of which
// compress, in one sandbox: what the servers say has the placeholder in place of the key.
func TestCompressedWebSockets(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	servers := map[string]string{
		"/python": socketServer(t, "", "/usr/bin/python3", "-c", pythonSocketServer),
		"/node":   socketServer(t, "testdata/node", "node", "-e", nodeSocketServer),
	}
	w.extra["api.openai.com"] = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		handOver(t, rw, r, servers[r.URL.Path])
	})
	w.set("sockets", "OPENAI_API_KEY", openaiKey)
	modules, err := filepath.Abs(nodeModules)
	if err != nil {
		t.Fatal(err)
	}
	r := w.run(project(t, map[string]string{
		"superserve.yaml": "name: sockets\ncommand: sh main.sh\nsecrets: [OPENAI_API_KEY]\n",
		"main.sh": "set -e\n/usr/bin/python3 main.py\nnode main.mjs node\n" +
			"/node_modules/@oven/bun-linux-x64-baseline/bin/bun run main.mjs bun\n",
		"main.py": pythonSocketClient, "main.mjs": nodeSocketClient,
	}), "--mount", modules+":/node_modules:ro")
	var want strings.Builder
	for _, client := range []string{"python", "node", "bun"} {
		for _, server := range []string{"python", "node"} {
			said := "true true\n"
			if client == "python" {
				said = "True True\n"
			}
			want.WriteString(client + " " + server + " " + said)
		}
	}
	if r.code != 0 || r.stdout != want.String() {
		t.Errorf("exit %d, stdout %q, want %q\nstderr: %s", r.code, r.stdout, want.String(), r.stderr)
	}
	for _, got := range w.requests() {
		if got.Header.Get("Authorization") != "Bearer "+openaiKey {
			t.Errorf("the server saw %q", got.Header.Get("Authorization"))
		}
	}
}

// socketServer starts a program that prints its port, and returns its address.
func socketServer(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var errs strings.Builder
	cmd.Dir, cmd.Stderr = dir, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, errs.String())
	}
	go io.Copy(io.Discard, out)
	return net.JoinHostPort("127.0.0.1", strings.TrimSpace(port))
}

// handOver gives a connection to the server at addr, from its request on.
func handOver(t *testing.T, rw http.ResponseWriter, r *http.Request, addr string) {
	conn, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		t.Errorf("hijack: %v", err)
		return
	}
	defer conn.Close()
	server, err := net.Dial("tcp", addr)
	if err != nil {
		t.Errorf("the server: %v", err)
		return
	}
	defer server.Close()
	if err := r.Write(server); err != nil {
		t.Errorf("the server: %v", err)
		return
	}
	go func() {
		io.Copy(server, buffered)
		server.Close()
	}()
	io.Copy(conn, server)
}
