package cli

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

// mayAllow reports whether a run can ask its user: on a terminal.
func (sh *shell) mayAllow(f runFlags) bool {
	return !f.asJSON && !f.quiet && isTerminal(sh.in) && isTerminal(sh.err)
}

// allow asks where unbound secrets of an agent may go: for this run, or for good, which is `secrets bind`.
func (sh *shell) allow(name string) sandbox.Ask {
	var one sync.Mutex // at a time
	return func(ctx context.Context, s *sandbox.Sandbox, q sandbox.Question) *api.Binding {
		one.Lock()
		defer one.Unlock()
		binding := &api.Binding{Hosts: []api.Pattern{{Host: q.Host, Port: q.Port}}}
		if q.Port == api.DefaultPort {
			binding.Hosts[0].Port = 0
		}
		answer := sh.askAllow(ctx, s, q.Secret, binding.Hosts[0].String())
		if answer != "once" && answer != "always" {
			return nil
		}
		c, err := sh.secretd(ctx)
		switch {
		case err != nil:
		case answer == "once":
			err = c.BindRun(ctx, s.ID(), q.Secret, *binding)
		default:
			err = c.Bind(ctx, name, q.Secret, *binding)
		}
		if err != nil {
			sh.report(fmt.Errorf("allow %s: %w", q.Secret, err))
			return nil
		}
		return binding
	}
}

// askAllow puts the question. Anything but a clear yes is no, and so is no answer until the run ends. An agent that
// draws the screen or takes each key as it is typed is not interrupted: the question would stand in its picture, and the
// answer be meant for it.
func (sh *shell) askAllow(ctx context.Context, s *sandbox.Sandbox, secret, host string) string {
	if s.Raw() {
		return ""
	}
	release := s.HoldInput()
	defer release()
	fd := int(sh.in.Fd())
	defer byLines(fd)()
	unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) // what was typed before was no answer
	fmt.Fprintf(sh.err, "%s %s to %s? (once/always/no) ", sh.paint(sh.err, yellow, "allow"), secret, host)
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	line, err := readTyped(ctx, fd, sh.in)
	if err != nil {
		fmt.Fprintln(sh.err)
	}
	return strings.ToLower(strings.TrimSpace(line))
}

// byLines has a terminal that an agent was given read by lines, with echo, until restore is called.
func byLines(fd int) (restore func()) {
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	t := *before
	t.Iflag |= unix.ICRNL
	t.Oflag |= unix.OPOST | unix.ONLCR
	t.Lflag |= unix.ICANON | unix.ECHO | unix.ISIG
	unix.IoctlSetTermios(fd, unix.TCSETS, &t)
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, before) }
}

// readTyped reads one line of a terminal, which gives out whole ones, unless ctx ends first.
func readTyped(ctx context.Context, fd int, in io.Reader) (string, error) {
	const step, longest = 100, 256 // milliseconds, bytes
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, step); err != nil && err != unix.EINTR || n <= 0 {
			continue
		}
		buf := make([]byte, longest)
		n, err := in.Read(buf)
		if err != nil {
			return "", err
		}
		return bufio.NewReader(bytes.NewReader(buf[:n])).ReadString('\n')
	}
	return "", ctx.Err()
}
