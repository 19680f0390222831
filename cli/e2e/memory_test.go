//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// copiesInProxy is how many copies of a key a proxy may have: the lease's, the redaction's, and those in the
// buffers of connections that are open. It does not grow with the requests. An upstream that gives keys back leaves
// more, in what crypto/tls and the answers' heads were read into, until that memory is used again.
const copiesInProxy = 40

// busyAgent asks as often as the lines on its input say, on kept and on new connections.
const busyAgent = `
import http.client, os, ssl, sys
print("ready", flush=True)
key = "Bearer " + os.environ["OPENAI_API_KEY"]
kept = http.client.HTTPSConnection("api.openai.com")
for line in sys.stdin:
    for n in range(int(line)):
        c = kept if n % 10 else http.client.HTTPSConnection("api.openai.com")
        c.request("GET", "/v1/chat/completions", headers={"Authorization": key})
        c.getresponse().read()
`

// TestProxyKeepsFewCopies keeps a proxy busy and counts the key in its memory, then has it crash, and looks
// for the key where a crash leaves things and in what lives on.
func TestProxyKeepsFewCopies(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	w.set("plain", "OPENAI_API_KEY", openaiKey)
	dir := agentProject(t, "exec python3 agent.py", "secrets: [OPENAI_API_KEY]\n")
	if err := os.WriteFile(dir+"/agent.py", []byte(busyAgent), 0o644); err != nil {
		t.Fatal(err)
	}
	say, wait := w.conversation(t, dir)
	proxy := w.proxy(t)
	asked := 0
	for _, n := range []int{100, 500} {
		say(fmt.Sprintln(n))
		asked += n
		await(t, "the requests are made", func() bool { return len(w.requests()) >= asked })
		found := copiesIn(proxy, []byte(openaiKey))
		t.Logf("after %d requests: %d copies", asked, found)
		if found > copiesInProxy {
			t.Errorf("after %d requests the proxy has %d copies of the key, at most %d", asked, found, copiesInProxy)
		}
	}
	if limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", proxy)); err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
		t.Errorf("the proxy may leave a core: %v\n%s", err, limits)
	}
	if info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", proxy)); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("/proc shows the proxy to its own user: %v", err)
	}
	w.scanProcesses(t)
	// Every goroutine's stack, as a crash prints it.
	if err := syscall.Kill(proxy, syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	r := wait()
	if r.code != 125 {
		t.Errorf("exit %d, want 125", r.code)
	}
	w.wantClean(t, "the run's output", r.stdout+r.stderr)
	w.scanState(t)
	if guilty, _ := scanMemory(openaiKey); len(guilty) > 0 {
		t.Errorf("holds the key after the run: %s", guilty)
	}
	await(t, "secretd has forgotten the key", func() bool { return copiesIn(w.secretd(), []byte(openaiKey)) == 0 })
}

// proxy returns the process of the one run's proxy.
func (w *world) proxy(t *testing.T) int {
	t.Helper()
	for _, id := range descendants(w.supervisor) {
		if strings.HasPrefix(commandLine(id), "superserve proxy") {
			return id
		}
	}
	t.Fatal("the run has no proxy")
	return 0
}
