package sandbox_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/runtime/sandbox"
)

// TestSetNetwork closes and opens the network of a running agent from outside: an open connection is reset, new ones
// are refused, and come through again afterwards.
func TestSetNetwork(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	cfg := config(t, "")
	cfg.Command = []string{"/bin/bash", "-c", `
try() { if exec 4<>/dev/tcp/echo.test/7000 && echo $1 >&4 && read -t 10 a <&4; then echo "$1 $a"; else echo "$1 refused"; fi 2>/dev/null; exec 4>&-; }
exec 3<>/dev/tcp/echo.test/7000; echo held >&3; read a <&3; echo $a
read x; read -t 10 a <&3; echo "held ends $?"
try second; read x; try third; read x`}
	cfg.Resolve = []string{fmt.Sprintf("echo.test:7000:127.0.0.1:%d", l.Addr().(*net.TCPAddr).Port)}
	in, agentIn := io.Pipe()
	agentOut, out := io.Pipe()
	cfg.Stdin, cfg.Stdout, cfg.Logs = in, out, true
	s, err := sandbox.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	said := bufio.NewScanner(agentOut)
	expect := func(want string) {
		t.Helper()
		if !said.Scan() || said.Text() != want {
			t.Fatalf("the agent says %q, want %q", said.Text(), want)
		}
	}
	expect("held")
	closed := sandbox.Network{Allow: []string{}, Deny: []string{"x.test"}, Requests: []sandbox.RequestRule{{Host: "y.test", Methods: []string{"GET"}}}}
	if err := sandbox.SetNetwork(t.Context(), cfg.State, s.ID(), closed); err != nil {
		t.Fatal(err)
	}
	if n, err := sandbox.RunNetwork(cfg.State, s.ID()); err != nil || !cmp.Equal(n, closed) {
		t.Errorf("RunNetwork: %+v, %v", n, err)
	}
	fmt.Fprintln(agentIn)
	expect("held ends 1")
	expect("second refused")
	if err := s.SetNetwork(t.Context(), sandbox.Network{Allow: []string{"*"}}); err == nil || !strings.Contains(err.Error(), "bare *") {
		t.Errorf("a policy that does not parse: %v", err)
	}
	if err := s.SetNetwork(t.Context(), sandbox.Network{}); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(agentIn)
	expect("third third")
	fmt.Fprintln(agentIn)
	if _, err := s.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{s.SetNetwork(t.Context(), closed), sandbox.SetNetwork(t.Context(), cfg.State, s.ID(), closed)} {
		if !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("after the end: %v", err)
		}
	}
}
