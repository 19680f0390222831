package agent

import "strings"

// Vector returns the argument vector of the command with args after it. A line of plain words is split
// at its blanks, so that the agent's own process gets the signals; any other goes to /bin/sh.
func (c Command) Vector(args []string) []string {
	if len(c.Argv) > 0 {
		return append(append([]string(nil), c.Argv...), args...)
	}
	if words := strings.Fields(c.Line); isPlain(c.Line) && !strings.Contains(words[0], "=") {
		return append(words, args...)
	}
	if len(args) == 0 {
		return []string{"/bin/sh", "-c", c.Line}
	}
	return append([]string{"/bin/sh", "-c", c.Line + ` "$@"`, "sh"}, args...)
}

// isPlain reports whether a line means to a shell what it means split at blanks.
func isPlain(line string) bool {
	for _, r := range line {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(" \t_./:=@%+,-", r)) {
			return false
		}
	}
	return strings.TrimSpace(line) != ""
}
