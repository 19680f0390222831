package dial

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/superserve/superserve/secretd/api"
)

// hostPort is what an override is found by; host is canonical.
type hostPort struct {
	host string
	port uint16
}

type overrides map[hostPort][]netip.AddrPort

func (o overrides) find(host string, port uint16) []netip.AddrPort { return o[hostPort{host, port}] }

// leadsTo reports whether an override names a as the address to dial.
func (o overrides) leadsTo(a netip.Addr) bool {
	for _, targets := range o {
		if slices.ContainsFunc(targets, func(t netip.AddrPort) bool { return t.Addr() == a }) {
			return true
		}
	}
	return false
}

// parseOverrides reads curl's --resolve form with the addition of a last port.
// IPv6 addresses stand in brackets. Several for one host are tried in turn.
func parseOverrides(entries []string) (overrides, error) {
	out := overrides{}
	for _, s := range entries {
		key, target, err := parseOverride(s)
		if err != nil {
			return nil, fmt.Errorf("resolve %q: %w", s, err)
		}
		out[key] = append(out[key], target)
	}
	return out, nil
}

// Literals returns the overrides whose host is an IP literal: a policy has to let
// them through, because they are never dialled themselves.
func Literals(entries []string) ([]netip.AddrPort, error) {
	over, err := parseOverrides(entries)
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for key := range over {
		if a, err := netip.ParseAddr(key.host); err == nil {
			out = append(out, netip.AddrPortFrom(a, key.port))
		}
	}
	return out, nil
}

func parseOverride(s string) (hostPort, netip.AddrPort, error) {
	host, rest, err := cutHost(s)
	if err != nil {
		return hostPort{}, netip.AddrPort{}, err
	}
	text, target, found := strings.Cut(rest, ":")
	port, err := parsePort(text)
	if err != nil || !found {
		return hostPort{}, netip.AddrPort{}, errors.New("want HOST:PORT:ADDR or HOST:PORT:ADDR:PORT")
	}
	addr, err := parseTarget(target, port)
	return hostPort{host, port}, addr, err
}

// cutHost takes the host, a name or an IP literal, off the front.
func cutHost(s string) (host, rest string, err error) {
	if inner, found := strings.CutPrefix(s, "["); found {
		host, rest, found = strings.Cut(inner, "]:")
		if !found {
			return "", "", errors.New("no ] behind the IPv6 address")
		}
	} else {
		host, rest, _ = strings.Cut(s, ":")
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().String(), rest, nil
	}
	h, err := api.ParseHost(host)
	return string(h), rest, err
}

// parseTarget reads "ADDR" or "ADDR:PORT"; a bare IPv6 address may do without
// brackets when no port follows, as with curl.
func parseTarget(s string, port uint16) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return netip.AddrPortFrom(a.Unmap(), port), nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return netip.AddrPort{}, errors.New("the address to dial must be an IP address")
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

func parsePort(s string) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || port == 0 {
		return 0, errors.New("the port is not a number between 1 and 65535")
	}
	return uint16(port), nil
}
