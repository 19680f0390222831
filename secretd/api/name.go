package api

import (
	"errors"
	"fmt"
)

// CheckName tells whether s may name a secret, which is the name of the
// environment variable that carries its placeholder: [A-Za-z_][A-Za-z0-9_]{0,255}.
// The error wraps ErrInvalid.
func CheckName(s string) error {
	if s == "" || len(s) > MaxName || s[0] >= '0' && s[0] <= '9' || !isWord(s) {
		return fmt.Errorf("secret name %s: %w: use letters, digits and underscores, not starting with a digit", quote(s), ErrInvalid)
	}
	return nil
}

// CheckAgent tells whether s may name an agent: ^[a-z][a-z0-9-]*$, at most 128
// bytes. The error wraps ErrInvalid.
func CheckAgent(s string) error {
	const most = 128
	ok := s != "" && len(s) <= most && s[0] >= 'a' && s[0] <= 'z'
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-'
	}
	if !ok {
		return fmt.Errorf("agent name %s: %w: use lower-case letters, digits and hyphens, starting with a letter", quote(s), ErrInvalid)
	}
	return nil
}

// CheckRun tells whether s may name a run: 1–128 letters, digits, '.', '_', '-',
// starting with a letter or digit. The error wraps ErrInvalid.
func CheckRun(s string) error {
	const most = 128
	ok := s != "" && len(s) <= most && s[0] != '.' && s[0] != '-' && s[0] != '_'
	for i := 0; ok && i < len(s); i++ {
		ok = isLabelByte(s[i]) || s[i] == '.'
	}
	if !ok {
		return fmt.Errorf("run name %s: %w", quote(s), ErrInvalid)
	}
	return nil
}

// Check tells whether a binding keeps within the limits. The error wraps
// ErrInvalid.
func (b Binding) Check() error {
	if len(b.Hosts) > MaxHosts || len(b.Uses) > MaxUses {
		return fmt.Errorf("binding: %w: more than %d hosts or %d uses", ErrInvalid, MaxHosts, MaxUses)
	}
	for _, h := range b.Hosts {
		if h.Host == "" && !h.Addr.IsValid() {
			return fmt.Errorf("binding: %w: %w", ErrInvalid, errors.New("an empty host"))
		}
	}
	return nil
}

func isWord(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_') {
			return false
		}
	}
	return true
}
