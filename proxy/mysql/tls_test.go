package mysql

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strconv"

	"github.com/superserve/superserve/proxy/ca"
	"github.com/superserve/superserve/proxy/login/logintest"
)

// authorityTLS ends TLS as logintest.Host.
type authorityTLS struct{ *ca.Authority }

func (a authorityTLS) server(conn net.Conn) (net.Conn, error) {
	cfg, err := a.Config(logintest.Host, "")
	if err != nil {
		return nil, err
	}
	return tls.Server(conn, cfg), nil
}

func proxytestAddr(l net.Listener) netip.AddrPort {
	return netip.MustParseAddrPort(l.Addr().String())
}

func portOf(r *logintest.Rig) string { return strconv.Itoa(int(r.Addr.Port())) }
