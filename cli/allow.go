package cli

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/runtime/sandbox"
)

// mayAllow reports whether a run can ask its user: on a terminal.
func (sh *shell) mayAllow(f runFlags) bool {
	return f.ask && !f.asJSON && !f.quiet && isTerminal(sh.in) && isTerminal(sh.err)
}

// allower asks the user of a run what its rules leave open: where unbound secrets may go, and which names the agent may
// connect to. It is safe for concurrent use.
type allower struct {
	*shell
	agent, state string
	own          func(secret string) bool // it was brought along for this run
	out          *outlet

	one  sync.Mutex // at a time; guards gone
	gone time.Time  // when a question was last left without an answer

	missed atomic.Bool // a question had no place on the terminal, and nobody watched
}

// ask implements sandbox.Ask.
func (a *allower) ask(ctx context.Context, s *sandbox.Sandbox, q sandbox.Question) sandbox.Reply {
	came := time.Now()
	a.one.Lock()
	defer a.one.Unlock()
	if ctx.Err() != nil || came.Before(a.gone) {
		return sandbox.Unasked // its agent waited behind a question that nobody was there to answer
	}
	word, asked := a.put(ctx, s, a.prompt(q))
	switch {
	case !asked:
		return sandbox.Unasked
	case word == "once", word == "always":
		return a.allow(ctx, s, q, word == "always")
	case word == "":
		a.gone = time.Now()
	}
	return sandbox.Refused
}

// afterwards says where a question would have been asked that was not.
func (a *allower) afterwards() {
	if a.missed.Load() {
		a.note("there was something to ask you, and no place on the agent's screen: superserve watch, in another terminal, asks")
	}
}

// prompt is the question. What is in it was checked (sandbox.Question.Fits).
func (a *allower) prompt(q sandbox.Question) string {
	switch {
	case q.Secret == "":
		return fmt.Sprintf("allow connections to %s? (once/always/no) ", q.Target())
	case a.own(q.Secret):
		return fmt.Sprintf("allow %s to %s? (once/no) ", q.Secret, q.Binding().Hosts[0])
	}
	return fmt.Sprintf("allow %s to %s? (once/always/no) ", q.Secret, q.Binding().Hosts[0])
}

// allow has what was allowed kept where it lasts: with the secret, in the agent's network, or in neither, since what was
// brought along lies nowhere. The sandbox does the rest.
func (a *allower) allow(ctx context.Context, s *sandbox.Sandbox, q sandbox.Question, always bool) sandbox.Reply {
	var err error
	switch {
	case q.Secret == "" && always:
		err = keepAllowed(a.state, a.agent, func(kept []string) ([]string, error) { return append(kept, q.Target()), nil })
	case q.Secret == "" || a.own(q.Secret):
	default:
		err = a.bind(ctx, s, q, always)
	}
	if err != nil {
		a.report(fmt.Errorf("allow %s: %w", q.Target(), err))
		return sandbox.Refused
	}
	return sandbox.Allowed
}

// bind tells secretd.
func (a *allower) bind(ctx context.Context, s *sandbox.Sandbox, q sandbox.Question, always bool) error {
	c, err := a.secretd(ctx)
	if err != nil {
		return err
	}
	if always {
		return c.Bind(ctx, a.agent, q.Secret, *q.Binding())
	}
	return c.BindRun(ctx, s.ID(), q.Secret, *q.Binding())
}

// put puts the question where somebody reads it. Anything but a clear yes is no, and so is no answer until askTimeout. An
// agent that draws the screen or takes each key as it is typed is not interrupted: the question would stand in its
// picture, and the answer be meant for it. Then those are asked who watch the run.
func (a *allower) put(ctx context.Context, s *sandbox.Sandbox, prompt string) (word string, asked bool) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if s.Raw() {
		if word, asked = s.AskAttendants(ctx, prompt); !asked {
			a.missed.Store(true)
		}
		return answerWord(word), asked
	}
	release, err := s.HoldTerminal(ctx)
	if err != nil {
		return "", false
	}
	defer release()
	defer a.out.hold()()
	return a.askTyped(ctx, prompt), true
}

// answerWord is an answer as it is compared; "" is none.
func answerWord(line string) string { return strings.ToLower(strings.TrimSpace(line)) }

// freshLine ends what an agent may have begun on the terminal and begins a line: a control sequence that was cut off (CAN),
// colours in which nothing can be read, a character set without letters, text below (ECMA-48, DEC STD 070).
const freshLine = "\x18\x1b[m\x1b(B\x0f\r\n\x1b[J"

// askTyped asks on our own terminal, of which nobody else must be reading. It returns "" when nobody answers.
func (sh *shell) askTyped(ctx context.Context, prompt string) string {
	fd := int(sh.in.Fd())
	defer byLines(fd)()
	unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) // what was typed before was no answer
	if os.Getenv("TERM") != "dumb" {
		io.WriteString(sh.err, freshLine)
	}
	verb, rest, _ := strings.Cut(prompt, " ")
	fmt.Fprintf(sh.err, "%s %s", sh.paint(sh.err, yellow, verb), escapeLine(rest))
	line, err := readTyped(ctx, fd, sh.in)
	if err != nil {
		fmt.Fprintln(sh.err)
		return ""
	}
	if word := answerWord(line); word != "" {
		return word
	}
	return "no"
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
