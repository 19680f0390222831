package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"superserve": func() { os.Exit(Main()) },
	})
}

// TestScript runs testdata/script: the command line as a person meets it, with a real secretd and a
// state of its own for each script. Commands of its own: `stopsecretd`.
func TestScript(t *testing.T) {
	secretd := buildSecretd(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			// Not below the script's folder, whose path is too long for a socket.
			state, err := os.MkdirTemp("", "ss")
			if err != nil {
				return err
			}
			e.Setenv("SUPERSERVE_STATE", state)
			e.Setenv("BARE_PATH", e.Getenv("PATH"))
			e.Setenv("PATH", filepath.Dir(secretd)+":"+e.Getenv("PATH"))
			e.Defer(func() {
				if err := errors.Join(stopSecretd(state), os.RemoveAll(state)); err != nil {
					t.Error(err)
				}
			})
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"stopsecretd": func(ts *testscript.TestScript, _ bool, _ []string) {
				ts.Check(stopSecretd(ts.Getenv("SUPERSERVE_STATE")))
			},
		},
	})
}

// buildSecretd compiles the real one.
func buildSecretd(t *testing.T) string { return build(t, "secretd") }

// build compiles one of the programs; the Go tool's cache makes all but the first time quick.
func build(t *testing.T, program string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), program)
	cmd := exec.Command("go", "build", "-o", out, "./"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", program, err, text)
	}
	return out
}

// stopSecretd ends the secretd of a state, if there is one, and waits for its end.
func stopSecretd(state string) error {
	conn, err := net.Dial("unix", filepath.Join(state, "run", "secretd.sock"))
	if err != nil {
		return nil
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { peer, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, credErr); err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(int(peer.Pid), 0)
	if err != nil {
		return fmt.Errorf("secretd %d: %w", peer.Pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, syscall.SIGTERM, nil, 0); err != nil {
		return err
	}
	const patience = time.Minute // until the descriptor can be read: the process has ended
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds())); n != 1 {
		return fmt.Errorf("secretd %d does not end: %v", peer.Pid, err)
	}
	return nil
}
