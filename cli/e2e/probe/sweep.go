package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of the sweep. AF_MAX is 46 in Linux 6.18; protocols beyond a byte are MPTCP's.
const (
	families  = 48
	types     = 12 // SOCK_PACKET is 10
	protocols = 256
)

// swept is the sweep's result. Opened names "family/type", with how many protocols opened.
type swept struct {
	Tried  int            `json:"tried"`
	Opened map[string]int `json:"opened"`
	Sends  map[string]int `json:"sends"` // outcomes of sending with the sockets of AF_INET and AF_INET6
	Others map[string]int `json:"others"`
}

// sweep opens every socket that socket(2) may name, and sends with each that opened.
func sweep(marker string) {
	p := &probe{marker: marker, payload: []byte("probe " + marker + "\n")}
	s := swept{Opened: map[string]int{}, Sends: map[string]int{}, Others: map[string]int{}}
	for family := range families {
		for kind := range types {
			for protocol := range protocols {
				s.try(p, family, kind, protocol)
			}
			s.try(p, family, kind, unix.IPPROTO_MPTCP)
		}
	}
	json.NewEncoder(os.Stdout).Encode(s)
	end()
}

func (s *swept) try(p *probe, family, kind, protocol int) {
	s.Tried++
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	s.Opened[fmt.Sprintf("%d/%d", family, kind)]++
	inet := family == unix.AF_INET || family == unix.AF_INET6
	for _, to := range []netip.Addr{far4, far6, mapped} {
		for _, how := range []struct {
			name string
			send func() error
		}{
			{"sendto", func() error {
				return unix.Sendto(fd, p.payload, unix.MSG_NOSIGNAL, sockaddr(netip.AddrPortFrom(to, 443)))
			}},
			{"connect", func() error { return unix.Connect(fd, sockaddr(netip.AddrPortFrom(to, 443))) }},
			{"write", func() error { return unix.Sendto(fd, p.payload, unix.MSG_NOSIGNAL, nil) }},
		} {
			result := "ok"
			if err := how.send(); err != nil {
				result = errno(err)
			}
			if inet {
				s.Sends[strings.Join([]string{kinds[kind], how.name, result}, " ")]++
			} else {
				s.Others[fmt.Sprintf("%d %s %s", family, how.name, result)]++
			}
		}
	}
}

var kinds = map[int]string{unix.SOCK_STREAM: "stream", unix.SOCK_DGRAM: "datagram", unix.SOCK_RAW: "raw", unix.SOCK_SEQPACKET: "seqpacket", unix.SOCK_PACKET: "packet"}
