package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/term"
)

// errNoTerminal means that a question has nobody to answer it.
var errNoTerminal = errors.New("no terminal to ask on")

// confirm asks a yes-or-no question on the terminal, no being the answer to anything but y or yes. It
// says "Cancelled" itself on no.
func (sh *shell) confirm(question string) (bool, error) {
	if !isTerminal(sh.in) {
		return false, fmt.Errorf("%s: %w", question, errNoTerminal)
	}
	fmt.Fprintf(sh.out, "%s (y/N) ", question)
	line, err := bufio.NewReader(io.LimitReader(sh.in, 1<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true, nil
	}
	fmt.Fprintln(sh.out, "Cancelled")
	return false, nil
}

// askSecret reads a value from the terminal without echo.
func (sh *shell) askSecret(name string) ([]byte, error) {
	fmt.Fprintf(sh.err, "%s: ", name)
	value, err := term.ReadPassword(int(sh.in.Fd()))
	fmt.Fprintln(sh.err)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return value, nil
}
