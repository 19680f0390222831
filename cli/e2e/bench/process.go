package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// child is a process of the benchmark that listens on 127.0.0.1. Without a command it is
// one of a run, which is listened for in the sandbox.
type child struct {
	cmd  *exec.Cmd
	port int
}

// start runs this program in a role. Its first line of output is its port.
func (b *bench) start(role string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{role}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: cmd}
	if err := b.launch(c); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	c.port, err = strconv.Atoi(strings.TrimSpace(line))
	return c, err
}

// launch starts c and remembers it. It dies with this process.
func (b *bench) launch(c *child) error {
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.cmd.Path, err)
	}
	b.children = append(b.children, c)
	return nil
}

// stop ends every child, asking first so that profiles are written.
func (b *bench) stop() {
	for _, c := range b.children {
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, c := range b.children {
		kill := time.AfterFunc(5*time.Second, func() { _ = c.cmd.Process.Kill() })
		_ = c.cmd.Wait()
		kill.Stop()
	}
	b.children = nil
}

// awaitPort waits until something accepts on port.
func awaitPort(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr(port))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fmt.Errorf("nothing listens on port %d", port)
}

func addr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// freePort returns a port that was free a moment ago, for nginx, which cannot
// tell which it took.
func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

// cpu returns the CPU time, user and system, that c has used. The kernel keeps
// the sum exactly and shows it in hundredths of a second (proc_pid_stat(5)).
func (c *child) cpu() (time.Duration, error) {
	if c.cmd == nil {
		return 0, nil // none of its own
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, errors.New("read /proc/PID/stat: too few fields")
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// rss returns the resident memory of c in bytes.
func (c *child) rss() (int64, error) { return memoryOf(c.cmd.Process.Pid, "VmRSS:") }

// memoryOf returns a line of /proc/PID/status, in bytes.
func memoryOf(pid int, line string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), line)
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.ParseInt(number, 10, 64)
	return n << 10, err
}
