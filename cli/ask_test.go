package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// TestInterruptEndsAQuestion wants ^C to be an answer wherever a command waits for a person or a pipe, and the
// terminal to show again what is typed.
func TestInterruptEndsAQuestion(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, args, prompt string }{
		{"a value that is asked for", "secrets set my-agent KEY", "KEY: "},
		{"a value on standard input", "secrets set my-agent KEY=-", ""},
		{"a value in a pipe", "secrets set my-agent KEY=@" + pipe, ""},
		{"a file of values that is a pipe", "secrets set my-agent --env-file " + pipe, ""},
		{"a question", "secrets delete my-agent KEY", "(y/N) "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ours, agents, err := pty.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer ours.Close()
			defer agents.Close()
			before := modes(t, agents)
			ctx, interrupt := context.WithCancel(t.Context())
			said := &prompt{want: tt.prompt, then: interrupt}
			if tt.prompt == "" {
				interrupt() // nothing says that it waits, and it must not begin to
			}
			sh := &shell{in: agents, out: said, err: said, state: t.TempDir()}
			end := make(chan int, 1)
			go func() { end <- sh.execute(ctx, strings.Fields(tt.args)) }()
			select {
			case code := <-end:
				if code != exitInterrupted {
					t.Errorf("%s: got exit code %d, want %d: %s", tt.args, code, exitInterrupted, &said.Buffer)
				}
			case <-time.After(time.Minute):
				t.Fatalf("%s: it goes on", tt.args)
			}
			if after := modes(t, agents); after != before {
				t.Errorf("the terminal's modes: got %+v, want %+v", after, before)
			}
		})
	}
}

// prompt is a screen on which a text is waited for.
type prompt struct {
	bytes.Buffer
	want string
	then func()
}

func (p *prompt) Write(b []byte) (int, error) {
	n, err := p.Buffer.Write(b)
	if p.want != "" && strings.Contains(p.String(), p.want) {
		p.then()
	}
	return n, err
}

func modes(t *testing.T, tty *os.File) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}
