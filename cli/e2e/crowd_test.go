//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestCrowd starts many sandboxes at once, on a machine that may have far fewer processors. Each calls out, all live
// at the same time, all end well, and nothing is left. CROWD says how many (`make crowd`: 100).
func TestCrowd(t *testing.T) {
	n := times(t, "CROWD", 10)
	a := newArena(t, "network: {allow: [\""+streamHost+"\"]}\nsecrets: [OPENAI_API_KEY]\n")
	a.set("probe", "OPENAI_API_KEY", openaiKey)
	if r := a.superserve("", "deploy", a.dir); r.code != 0 {
		t.Fatalf("deploy: %s", r.stderr)
	}
	a.target = "probe"
	var calls atomic.Int64
	port := a.host.listen(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		if line, err := bufio.NewReader(c).ReadString('\n'); err == nil && line == "hello\n" {
			fmt.Fprintf(c, "call %d\n", calls.Add(1))
			io.Copy(io.Discard, c)
		}
	})
	flags := []string{"--resolve", fmt.Sprintf("%s:127.0.0.1:%d", streamHost, port)}
	outside := listenIn(t, a.host.ns, leaves("hello"))
	outside.foreign = leavesHost // on lo, hello is what the proxies bring
	began := time.Now()
	crowd := make([]*captive, n)
	starts := make([]time.Duration, n)
	var starting sync.WaitGroup
	for i := range crowd {
		crowd[i] = a.start(t, flags, "ask", streamHost)
		starting.Go(func() { starts[i] = crowd[i].called(t, began) })
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	all := time.Since(began)
	memory := a.memory(t)
	ending := time.Now()
	for _, c := range crowd {
		c.stdin.Close()
	}
	for _, c := range crowd {
		c.rest()
		if code := c.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("a run ended with %d\nstderr: %s", code, c.stderr)
		}
	}
	ended := time.Since(ending)
	a.wantNothingLeft(t)
	if got := calls.Load(); got != int64(n) {
		t.Errorf("%d calls arrived, want %d", got, n)
	}
	outside.wantNone(t, "on the host")
	fmt.Printf("crowd: %d sandboxes at once: agent runs after p50 %v, p99 %v; all have called after %v, have ended %v after the word; %d MiB each; nothing left\n",
		n, quantile(starts, 50), quantile(starts, 99), all.Round(time.Millisecond), ended.Round(time.Millisecond), memory>>20/int64(n))
}

func leavesHost(p packet) bool { return leaves("no packet has this")(p) }

// called waits until the agent runs, which it returns, and until its call was answered.
func (c *captive) called(t testing.TB, began time.Time) (start time.Duration) {
	for _, want := range []string{"ready", "call "} {
		select {
		case line, ok := <-c.lines:
			if !ok || !strings.HasPrefix(line, want) {
				<-c.ended
				t.Errorf("the probe said %q, want %s…\nstderr: %s", line, want, c.stderr)
				return 0
			}
		case <-time.After(patience):
			t.Errorf("the probe does not say %s…\nstderr: %s", want, c.stderr)
			return 0
		}
		if start == 0 {
			start = time.Since(began)
		}
	}
	return start
}

// memory is what all of the arena's sandboxes take, in bytes: supervisors, proxies and gVisor, each page counted
// by its share (Pss, proc_pid_smaps_rollup(5)).
func (a *arena) memory(t testing.TB) (bytes int64) {
	t.Helper()
	members := map[int]bool{}
	for _, id := range processes() {
		if id != os.Getpid() && id != a.secretd() && a.inHostNet(t, id) {
			members[id] = true
		}
	}
	for _, run := range a.runs(t) {
		text, _ := os.ReadFile(filepath.Join(cgroup2(), "superserve", run, "cgroup.procs"))
		for line := range strings.FieldsSeq(string(text)) {
			if id, err := strconv.Atoi(line); err == nil {
				members[id] = true
			}
		}
	}
	for id := range members {
		bytes += share(id)
	}
	return bytes
}

func share(id int) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", id))
	_, rest, _ := strings.Cut(string(text), "\nPss:")
	var kib int64
	fmt.Sscan(rest, &kib)
	return kib << 10
}
