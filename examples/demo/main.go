// Command demo shows the main job on one machine and without an account: a local server plays
// api.anthropic.com under a test certificate, superserve keeps a key for an agent and runs it, and both
// sides print what they saw. It needs root, bin/superserve and bin/secretd: `make demo` sees to them.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// realKey is what must never be seen inside; it opens nothing, anywhere.
const realKey = "sk-ant-api03-this-is-the-real-key-7f3a9c52e1d84b60"

func main() {
	if err := demo(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo makes a state of its own, runs the two commands and cleans up.
func demo() error {
	state, err := os.MkdirTemp("", "superserve-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(state)
	defer stopSecretd(filepath.Join(state, "run", "secretd.sock"))
	up, err := startUpstream(filepath.Join(state, "upstream-ca.pem"))
	if err != nil {
		return err
	}
	defer up.close()
	agent, err := copyAgent(state)
	if err != nil {
		return err
	}

	show("The operator keeps a key for the agent 'demo'", "superserve secrets set demo ANTHROPIC_API_KEY=-   (the value on standard input)")
	if _, err := superserve(state, realKey, "secrets", "set", "demo", "ANTHROPIC_API_KEY=-"); err != nil {
		return err
	}
	show("and runs it", "superserve run ./examples/demo/agent")
	began := time.Now()
	out, err := superserve(state, "", "run", "--upstream-ca", up.caFile,
		"--resolve", fmt.Sprintf("api.anthropic.com:443:127.0.0.1:%d", up.port), agent)
	if err != nil {
		return err
	}
	fmt.Printf("  (%d ms from the command to its end)\n", time.Since(began).Milliseconds())
	show("What the upstream saw", "")
	for _, line := range up.requests() {
		fmt.Println("  " + line)
	}
	return judge(out, up.requests())
}

// judge makes the demonstration a check.
func judge(agentSaw string, upstreamSaw []string) error {
	if strings.Contains(agentSaw, realKey) {
		return errors.New("the agent saw the real key")
	}
	if len(upstreamSaw) == 0 || !strings.Contains(upstreamSaw[0], realKey) {
		return errors.New("the upstream did not see the real key")
	}
	show("The real key was in the requests, and nowhere in the sandbox.", "")
	return nil
}

func show(title, command string) {
	fmt.Printf("\n── %s\n", title)
	if command != "" {
		fmt.Printf("  $ %s\n", command)
	}
}

// copyAgent takes the example out of the source tree: what is deployed is remembered by its folder.
func copyAgent(state string) (string, error) {
	dir := filepath.Join(state, "agent")
	return dir, os.CopyFS(dir, os.DirFS("examples/demo/agent"))
}

// superserve runs one command on the demo's state, shows its output and returns it.
func superserve(state, stdin string, args ...string) (string, error) {
	cmd := exec.Command("bin/superserve", args...)
	cmd.Env = append(os.Environ(), "SUPERSERVE_STATE="+state)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	for line := range strings.Lines(out.String()) {
		fmt.Print("  " + line)
	}
	if err != nil {
		return "", fmt.Errorf("superserve %s: %w", args[0], err)
	}
	return out.String(), nil
}

// stopSecretd ends the secretd that the first command started: the socket says whose it is.
func stopSecretd(socket string) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			syscall.Kill(int(peer.Pid), syscall.SIGTERM)
		}
	})
}
