package sandbox

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A proxy that does not become ready, or does not serve, ends the start in bounded time, and is ended itself.
func TestProxyThatHangs(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	const brief = 20 * time.Millisecond
	program, err := os.Open("/usr/bin/yes") // says a word without end, but not on Ready
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	p, err := startProxy(program, 64123, &Handoff{}, map[*int]*os.File{}, (*exec.Cmd).Start)
	if err != nil {
		t.Fatal(err)
	}
	p.startIn, p.endIn = brief, brief
	if err, want := p.awaitReady(), fmt.Sprintf("start proxy: it was not ready after %v", brief); err == nil || err.Error() != want {
		t.Errorf("awaitReady: got %v, want %s", err, want)
	}
	p.close()
	if p.cmd.ProcessState == nil {
		t.Error("it was not ended")
	}
}

func TestProxyThatDoesNotServe(t *testing.T) {
	ours, theirs := readyPair(t)
	p := &proxyProcess{ready: ours, lines: newReadyReader(ours), startIn: time.Minute}
	if err := WriteReady(theirs, []byte("a certificate")); err != nil {
		t.Fatal(err)
	}
	if err := p.awaitReady(); err != nil {
		t.Fatal(err)
	}
	p.startIn = 20 * time.Millisecond
	if err := p.serve(); err == nil || !strings.Contains(err.Error(), "it was not ready after 20ms") {
		t.Errorf("serve: got %v", err)
	}
}

func readyPair(t *testing.T) (ours, theirs *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("@superserve-ready-%d-%s", os.Getpid(), t.Name()), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if ours, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr)); err != nil {
		t.Fatal(err)
	}
	if theirs, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}
