package api

import (
	"errors"
	"fmt"
	"strings"
)

// maxHost and maxLabel are the limits of RFC 1035 §2.3.4, in bytes, of a name in
// text form without its final dot.
const (
	maxHost  = 253
	maxLabel = 63
)

// Host is a canonical host name: lower-case ASCII letters, digits, hyphens and
// underscores in labels of 1–63 bytes, no final dot, at most 253 bytes, and never
// anything that some resolver reads as an IP address. Two Hosts name the same
// host exactly when they are equal. The empty Host stands for "no name".
type Host string

// ParseHost makes s canonical: it removes one final dot and lowers ASCII letters.
// It refuses everything else that is not a host name already: IP literals in any
// notation that inet_aton takes (a last label that is a number, WHATWG URL §3.5),
// empty labels, non-ASCII bytes, ports, brackets and white space. Names with
// non-ASCII letters come in as their A-labels (xn--…). The error wraps ErrInvalid
// and does not quote s, which mostly comes from the wire.
func ParseHost(s string) (Host, error) {
	name := strings.TrimSuffix(s, ".")
	if err := checkHost(name); err != nil {
		return "", fmt.Errorf("host: %w: %w", ErrInvalid, err)
	}
	return Host(lower(name)), nil
}

// UnmarshalText parses a Host that came over a socket; empty text is no host.
func (h *Host) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*h = ""
		return nil
	}
	parsed, err := ParseHost(string(text))
	if err != nil {
		return err
	}
	*h = parsed
	return nil
}

func checkHost(name string) error {
	if name == "" {
		return errors.New("empty")
	}
	if len(name) > maxHost {
		return fmt.Errorf("longer than %d bytes", maxHost)
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if err := checkLabel(label); err != nil {
			return err
		}
		last = label
	}
	if isNumber(last) {
		return errors.New("an IP address, not a name")
	}
	return nil
}

func checkLabel(label string) error {
	if label == "" {
		return errors.New("empty label")
	}
	if len(label) > maxLabel {
		return fmt.Errorf("label longer than %d bytes", maxLabel)
	}
	for i := range len(label) {
		if !isLabelByte(label[i]) {
			return errors.New("only letters, digits, hyphens, underscores and dots make a host name")
		}
	}
	if label[0] == '-' || label[len(label)-1] == '-' {
		return errors.New("label begins or ends with a hyphen")
	}
	return nil
}

func isLabelByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// isNumber reports whether a label reads as a decimal or hexadecimal number; a
// name that ends in one is an IPv4 address to inet_aton and to browsers.
func isNumber(label string) bool {
	digits := "0123456789"
	if len(label) > 1 && (label[:2] == "0x" || label[:2] == "0X") {
		label, digits = label[2:], "0123456789abcdefABCDEF"
	}
	return strings.Trim(label, digits) == ""
}

// lower is strings.ToLower for ASCII alone: Unicode folding would turn the Kelvin
// sign into a k. It returns s itself when there is nothing to change.
func lower(s string) string {
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			return lowerCopy(s)
		}
	}
	return s
}

func lowerCopy(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// quote shortens and escapes what an operator wrote, for an error. Text with
// userinfo or a query may hold a credential and is not shown.
func quote(s string) string {
	const most = 80
	if strings.ContainsAny(s, "@?") {
		return "(not shown)"
	}
	if len(s) > most {
		return fmt.Sprintf("%q…", s[:most])
	}
	return fmt.Sprintf("%q", s)
}
