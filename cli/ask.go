package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// errNoTerminal means that a question has nobody to answer it.
var errNoTerminal = errors.New("no terminal to ask on")

// await reads what may never come, from a person or a pipe, until ctx ends. A read that it gives up goes on: only the
// end of the process ends it, which is what follows an interrupt.
func await[T any](ctx context.Context, read func() (T, error)) (value T, err error) {
	done := make(chan struct{})
	var got T
	var fault error
	go func() {
		defer close(done)
		got, fault = read()
	}()
	select {
	case <-done:
		return got, fault
	case <-ctx.Done():
		return value, ctx.Err()
	}
}

// confirm asks a yes-or-no question on the terminal, no being the answer to anything but y or yes. It
// says "Cancelled" itself on no.
func (sh *shell) confirm(ctx context.Context, question string) (bool, error) {
	if !isTerminal(sh.in) {
		return false, fmt.Errorf("%s %w", question, errNoTerminal)
	}
	fmt.Fprintf(sh.out, "%s (y/N) ", question)
	line, err := await(ctx, sh.readLine)
	if err != nil {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(string(line))) {
	case "y", "yes":
		return true, nil
	}
	fmt.Fprintln(sh.out, "Cancelled")
	return false, nil
}

// askSecret reads a value from the terminal without echo.
func (sh *shell) askSecret(ctx context.Context, name string) ([]byte, error) {
	fmt.Fprintf(sh.err, "%s: ", name)
	restore := silence(int(sh.in.Fd()))
	value, err := await(ctx, sh.readLine)
	restore()
	fmt.Fprintln(sh.err)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return value, nil
}

// readLine reads a line of standard input, or what there is before its end, without the line end. A terminal that is
// read by lines gives out at most 4,095 bytes of one (termios(3)).
func (sh *shell) readLine() ([]byte, error) {
	line, err := bufio.NewReader(io.LimitReader(sh.in, 1<<12)).ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return trimLineEnd(line), err
}

// silence has a terminal not show what is typed, until restore is called. (Not term.ReadPassword: it goes on after ^D.)
func silence(fd int) (restore func()) {
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	t := *before
	t.Lflag &^= unix.ECHO
	unix.IoctlSetTermios(fd, unix.TCSETS, &t)
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, before) }
}
