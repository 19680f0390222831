package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/superserve/superserve/secretd/api"
)

// maxEnvFile is the largest .env file that is read, in bytes.
const maxEnvFile = 1 << 20

// pair is one KEY=VALUE.
type pair struct {
	key   string
	value []byte
}

// parseEnv reads a .env file: KEY=VALUE a line, blank lines and # comments, an optional `export `, a
// value bare (to a blank before a #), in 'single quotes' (as it is) or in "double quotes" (\n, \r, \t,
// \", \\, \$). Nothing is expanded: $HOME stays $HOME. A quoted value may span lines. Errors name the
// line and never hold its text, which is a secret.
func parseEnv(text string) ([]pair, error) {
	var pairs []pair
	line := 1
	for text != "" {
		row, _, _ := strings.Cut(text, "\n")
		if trimmed := strings.TrimSpace(row); trimmed == "" || trimmed[0] == '#' {
			text, line = skip(text, len(row)+1), line+1
			continue
		}
		p, used, err := parseEnvPair(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		pairs = append(pairs, p)
		line += strings.Count(text[:used], "\n")
		text = text[used:]
	}
	return pairs, nil
}

func skip(s string, n int) string { return s[min(n, len(s)):] }

// parseEnvPair reads one assignment at the start of text and returns how many bytes it took, its line
// end included.
func parseEnvPair(text string) (p pair, used int, err error) {
	row, _, _ := strings.Cut(text, "\n")
	key, _, ok := strings.Cut(row, "=")
	if !ok {
		return p, 0, errors.New("not KEY=VALUE")
	}
	value := text[len(key)+1:]
	p.key = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(key), "export "))
	if api.CheckName(p.key) != nil {
		return p, 0, errors.New("not the name of a variable before the =")
	}
	lead := len(value) - len(strings.TrimLeft(value, " \t"))
	if value = value[lead:]; value != "" && (value[0] == '"' || value[0] == '\'') {
		var n int
		p.value, n, err = unquote(value)
		return p, len(key) + 1 + lead + n, err
	}
	bare, _, _ := strings.Cut(value, "\n")
	used = min(len(key)+1+lead+len(bare)+1, len(text))
	if i := strings.Index(bare, " #"); i >= 0 {
		bare = bare[:i]
	}
	p.value = []byte(strings.TrimSpace(bare))
	return p, used, nil
}

// unquote reads a quoted value and the rest of its line.
func unquote(s string) (value []byte, used int, err error) {
	quote := s[0]
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == quote:
			rest, _, _ := strings.Cut(s[i+1:], "\n")
			if t := strings.TrimSpace(rest); t != "" && t[0] != '#' {
				return nil, 0, errors.New("text after the closing quote")
			}
			return value, min(i+1+len(rest)+1, len(s)), nil
		case s[i] == '\\' && quote == '"' && i+1 < len(s):
			i++
			value = append(value, unescape(s[i])...)
		default:
			value = append(value, s[i])
		}
	}
	return nil, 0, errors.New("no closing quote")
}

func unescape(c byte) []byte {
	switch c {
	case 'n':
		return []byte{'\n'}
	case 'r':
		return []byte{'\r'}
	case 't':
		return []byte{'\t'}
	case '"', '\\', '$':
		return []byte{c}
	}
	return []byte{'\\', c}
}
