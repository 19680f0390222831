package main

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Messages of rtnetlink(7) by hand: a header, a fixed part and attributes.

type message struct {
	kind  uint16
	flags uint16
	body  []byte
}

func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func number(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// routeChanges would give the sandbox an address, a way out, another link, or none at all.
func routeChanges() map[string]message {
	const lo = 1
	create := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
	address := append([]byte{unix.AF_INET, 24, 0, 0}, number(lo)...)
	address = append(address, attribute(unix.IFA_LOCAL, far4.AsSlice())...)
	address = append(address, attribute(unix.IFA_ADDRESS, far4.AsSlice())...)
	route := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_LINK, unix.RTN_UNICAST, 0, 0, 0, 0}
	route = append(route, attribute(unix.RTA_OIF, number(lo))...)
	local := []byte{unix.AF_INET, 0, 0, 0, unix.RT_TABLE_LOCAL, unix.RTPROT_BOOT, unix.RT_SCOPE_HOST, unix.RTN_LOCAL, 0, 0, 0, 0}
	local = append(local, attribute(unix.RTA_OIF, number(lo))...)
	link := make([]byte, unix.SizeofIfInfomsg)
	dummy := append(append([]byte{}, link...), attribute(unix.IFLA_IFNAME, []byte("out0\x00"))...)
	dummy = append(dummy, attribute(unix.IFLA_LINKINFO, attribute(unix.IFLA_INFO_KIND, []byte("dummy")))...)
	loopback := append([]byte{}, link...)
	copy(loopback[4:], number(lo))
	down := append([]byte{}, loopback...)
	copy(down[12:], number(unix.IFF_UP)) // change the flag up, to 0
	return map[string]message{
		"a new address":                {unix.RTM_NEWADDR, create, address},
		"a default route":              {unix.RTM_NEWROUTE, create, route},
		"no local route":               {unix.RTM_DELROUTE, 0, local},
		"another link":                 {unix.RTM_NEWLINK, create, dummy},
		"the link down":                {unix.RTM_SETLINK, 0, down},
		"the link gone":                {unix.RTM_DELLINK, 0, loopback},
		"a rule":                       {unix.RTM_NEWRULE, create, route[:12]},
		"a neighbour":                  {unix.RTM_NEWNEIGH, create, append([]byte{unix.AF_INET, 0, 0, 0}, append(number(lo), 0, 0, 0, 0)...)},
		"a queue of the link's sender": {unix.RTM_NEWQDISC, create, make([]byte, 20)},
	}
}

// netlink sends m and says what the kernel answered: the error by name, or ok.
func netlink(m message) string {
	return with(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, func(fd int) (string, error) {
		b := number(uint32(unix.SizeofNlMsghdr + len(m.body)))
		b = binary.NativeEndian.AppendUint16(b, m.kind)
		b = binary.NativeEndian.AppendUint16(b, m.flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
		b = append(b, make([]byte, 8)...) // sequence and port
		if err := unix.Sendto(fd, append(b, m.body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return "", err
		}
		answer := make([]byte, 4096)
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return "", err
		}
		if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
			return "an answer", nil
		}
		if e := -int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); e != 0 {
			return "", unix.Errno(e)
		}
		return "ok", nil
	})
}
