package api

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// DefaultPort is the port that a Pattern without one stands for.
const DefaultPort = 443

// Pattern names destinations: one host ("api.x.com"), every host below one
// ("*.x.com": any depth, never x.com itself), or one IP address
// ("203.0.113.7:443", "[2001:db8::7]:443"), on one port. Port 0 stands for
// DefaultPort. The zero Pattern matches nothing. Patterns are comparable.
type Pattern struct {
	Host Host
	Wild bool
	Port uint16
	Addr netip.Addr
}

// ParsePattern reads the text form of a Pattern. A wildcard needs two labels
// below it: "*.com" would hand a key to whoever buys a name. Whether two labels
// are a public suffix ("*.co.uk") is secretd's to check. The error wraps
// ErrInvalid.
func ParsePattern(s string) (Pattern, error) {
	p, err := parsePattern(s)
	if err != nil {
		return Pattern{}, fmt.Errorf("host pattern %s: %w: %w", quote(s), ErrInvalid, err)
	}
	return p, nil
}

func parsePattern(s string) (Pattern, error) {
	if strings.Contains(s, "://") || strings.ContainsAny(s, "/@?# ") {
		return Pattern{}, errors.New("give a host, not a URL")
	}
	if addr, ok := parseAddr(s); ok {
		return addr, nil
	}
	name, port, err := splitPort(s)
	if err != nil {
		return Pattern{}, err
	}
	name, wild := strings.CutPrefix(name, "*.")
	name = strings.TrimSuffix(name, ".")
	if err := checkHost(name); err != nil {
		return Pattern{}, err
	}
	if wild && !strings.Contains(name, ".") {
		return Pattern{}, errors.New("a wildcard needs at least two labels below it")
	}
	return Pattern{Host: Host(lower(name)), Wild: wild, Port: port}, nil
}

// parseAddr reads the forms of an IP address, with or without a port. A zone
// makes an address meaningful on one machine only, and is refused by falling
// through to the name rules.
func parseAddr(s string) (Pattern, bool) {
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Port() != 0 && ap.Addr().Zone() == "" {
		return Pattern{Addr: ap.Addr().Unmap(), Port: ap.Port()}, true
	}
	bare := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		bare = s[1 : len(s)-1]
	}
	if a, err := netip.ParseAddr(bare); err == nil && a.Zone() == "" {
		return Pattern{Addr: a.Unmap()}, true
	}
	return Pattern{}, false
}

func splitPort(s string) (string, uint16, error) {
	name, text, found := strings.Cut(s, ":")
	if !found {
		return s, 0, nil
	}
	if text == "" || len(text) > 5 || strings.Trim(text, "0123456789") != "" {
		return "", 0, errors.New("the port is not a number")
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return "", 0, errors.New("the port is not between 1 and 65535")
	}
	return name, uint16(port), nil
}

// Match reports whether a connection that was made by name goes to p. It is
// never true for a pattern of an IP address, see MatchAddr.
func (p Pattern) Match(h Host, port uint16) bool {
	if p.Host == "" || h == "" || port != p.port() {
		return false
	}
	if !p.Wild {
		return h == p.Host
	}
	// The byte before the suffix must be the dot: "evilx.com" is not below "x.com".
	at := len(h) - len(p.Host)
	return at > 1 && h[at-1] == '.' && h[at:] == p.Host
}

// MatchAddr reports whether a connection that was made to an IP literal goes to
// p. A name that resolves to the address does not match.
func (p Pattern) MatchAddr(a netip.Addr, port uint16) bool {
	return p.Addr.IsValid() && p.Addr == a.Unmap() && port == p.port()
}

func (p Pattern) port() uint16 {
	if p.Port == 0 {
		return DefaultPort
	}
	return p.Port
}

// String returns the text form, which ParsePattern reads back.
func (p Pattern) String() string {
	name := string(p.Host)
	switch {
	case p.Addr.IsValid() && p.Port != 0:
		return netip.AddrPortFrom(p.Addr, p.Port).String()
	case p.Addr.IsValid():
		return p.Addr.String()
	case p.Wild:
		name = "*." + name
	}
	if p.Port != 0 {
		name += ":" + strconv.Itoa(int(p.Port))
	}
	return name
}

// MarshalText returns the text form. The zero Pattern has none: ErrInvalid.
func (p Pattern) MarshalText() ([]byte, error) {
	if p.Host == "" && !p.Addr.IsValid() {
		return nil, fmt.Errorf("host pattern: %w: empty", ErrInvalid)
	}
	return []byte(p.String()), nil
}

// UnmarshalText reads the text form.
func (p *Pattern) UnmarshalText(text []byte) error {
	parsed, err := ParsePattern(string(text))
	if err != nil {
		return err
	}
	*p = parsed
	return nil
}
