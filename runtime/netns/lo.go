package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sysctls of the calling thread's namespace: /proc/sys/net shows the namespace of the thread that opens it.
const sysctls = "/proc/sys/net/"

// hasIPv6 says whether the kernel has IPv6 at all. Built without, or booted with ipv6.disable=1, it lacks the
// directory.
func hasIPv6() bool {
	_, err := os.Stat(sysctls + "ipv6/conf/lo/disable_ipv6")
	return err == nil
}

// setUp prepares the calling thread's new namespace and says whether IPv6 works in it.
func setUp(ipv6 bool) (bool, error) {
	if err := setSysctls(ipv6); err != nil {
		return false, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return false, fmt.Errorf("find lo: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return false, fmt.Errorf("set lo up: %w", err)
	}
	if err := give(h, lo, Own4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)); err != nil {
		return false, err
	}
	if !ipv6 {
		return false, nil
	}
	return true, give(h, lo, Own6, netip.PrefixFrom(netip.IPv6Unspecified(), 0))
}

func setSysctls(ipv6 bool) error {
	set := [][2]string{{"ipv4/ip_unprivileged_port_start", "0"}}
	if ipv6 {
		// A host that switched IPv6 off for its own networks still has it on our lo.
		set = append(set, [2]string{"ipv6/conf/all/disable_ipv6", "0"}, [2]string{"ipv6/conf/lo/disable_ipv6", "0"})
	}
	for _, s := range set {
		if err := os.WriteFile(sysctls+s[0], []byte(s[1]), 0); err != nil {
			return fmt.Errorf("set sysctl net/%s: %w", s[0], err)
		}
	}
	// New namespaces have "1 0", an empty range: no group may open a ping socket. Nothing else keeps them shut.
	const pingRange = "ipv4/ping_group_range"
	if err := os.WriteFile(sysctls+pingRange, []byte("1 0"), 0); err != nil {
		return fmt.Errorf("set sysctl net/%s: %w", pingRange, err)
	}
	return nil
}

// give adds own to lo and makes every address of world local to it ("AnyIP"). The route has a source, or the
// kernel would answer with the destination itself; it is in table local, which /proc/net/route does not show.
func give(h *netlink.Handle, lo netlink.Link, own netip.Addr, world netip.Prefix) error {
	address := &netlink.Addr{IPNet: network(netip.PrefixFrom(own, own.BitLen())), Flags: unix.IFA_F_NODAD, Scope: unix.RT_SCOPE_UNIVERSE}
	if err := h.AddrAdd(lo, address); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("give lo %v: %w", own, err)
	}
	route := &netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: network(world), Src: net.IP(own.AsSlice()),
		Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST,
	}
	if err := h.RouteAdd(route); err != nil {
		return fmt.Errorf("make %v local: %w", world, err)
	}
	return nil
}

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: net.IP(p.Addr().AsSlice()), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
