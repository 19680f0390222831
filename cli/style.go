package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// colour is an SGR code of ECMA-48.
type colour string

const (
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
)

// paint wraps text in a colour when w is a terminal whose user did not ask for none (no-color.org).
func (sh *shell) paint(w io.Writer, c colour, text string) string {
	if sh.noColor || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || !isTerminal(w) {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// done prints one finished step as a result, on stdout.
func (sh *shell) done(format string, args ...any) {
	fmt.Fprintf(sh.out, "%s %s\n", sh.paint(sh.out, green, "✓"), fmt.Sprintf(format, args...))
}

// note prints one line that is worth knowing and is no result, on stderr.
func (sh *shell) note(format string, args ...any) {
	fmt.Fprintf(sh.err, "%s %s\n", sh.paint(sh.err, yellow, "note:"), fmt.Sprintf(format, args...))
}

// warn prints one line that must not be missed, on stderr.
func (sh *shell) warn(format string, args ...any) {
	fmt.Fprintf(sh.err, "%s %s\n", sh.paint(sh.err, red, "WARNING:"), fmt.Sprintf(format, args...))
}

// escapeText makes text that an agent may have chosen (a file's name, a host's, a process's words)
// safe to print: every character that is not printable, line ends excepted, becomes its Go escape,
// so that no escape sequence, backspace or bidi override reaches a terminal (ECMA-48 §5.4; Unicode TR 36).
func escapeText(s string) string {
	clean := func(r rune) bool { return r == '\n' || unicode.IsPrint(r) && r != unicode.ReplacementChar }
	if strings.IndexFunc(s, func(r rune) bool { return !clean(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		_, width := utf8.DecodeRuneInString(s[i:])
		switch {
		case clean(r):
			b.WriteRune(r)
		case r == utf8.RuneError && width == 1: // a byte that is no UTF-8
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}

// escapeLine is escapeText for what must stay on one line.
func escapeLine(s string) string {
	return strings.ReplaceAll(escapeText(s), "\n", `\n`)
}
