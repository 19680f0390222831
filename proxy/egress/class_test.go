package egress

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

func TestClass(t *testing.T) {
	for _, c := range []struct{ addr, want string }{
		{"8.8.8.8", ""}, {"1.1.1.1", ""}, {"9.255.255.255", ""}, {"11.0.0.0", ""}, {"172.15.255.255", ""}, {"172.32.0.0", ""},
		{"100.63.255.255", ""}, {"100.128.0.0", ""}, {"169.253.255.255", ""}, {"198.17.255.255", ""}, {"198.20.0.0", ""}, {"223.255.255.255", ""},
		{"0.0.0.0", Unspecified}, {"0.1.2.3", Unspecified},
		{"10.0.0.1", Private}, {"172.16.0.0", Private}, {"172.31.255.255", Private}, {"192.168.1.1", Private},
		{"100.64.0.0", CGNAT}, {"100.127.255.255", CGNAT},
		{"127.0.0.1", Loopback}, {"127.255.255.255", Loopback},
		{"169.254.1.1", LinkLocal},
		{"169.254.169.254", Metadata}, {"168.63.129.16", Metadata}, {"169.254.170.2", Metadata}, {"100.100.100.200", Metadata},
		{"192.0.0.192", Metadata}, {"fd00:ec2::254", Metadata}, {"fd20:ce::254", Metadata},
		{"192.0.0.1", Reserved}, {"240.0.0.1", Reserved}, {"255.255.255.255", Reserved},
		{"192.0.2.1", Documentation}, {"198.51.100.7", Documentation}, {"203.0.113.7", Documentation},
		{"192.88.99.1", SixToFour}, {"198.18.0.1", Synthetic}, {"198.19.255.255", Synthetic},
		{"224.0.0.251", Multicast}, {"239.255.255.255", Multicast},
		{"2606:4700:4700::1111", ""}, {"2a00:1450:4001::1", ""}, {"2001:4860:4860::8888", ""}, {"2001:200::1", ""},
		{"::", Unspecified}, {"::1", Loopback}, {"::ffff:127.0.0.1", Mapped}, {"::ffff:8.8.8.8", Mapped},
		{"::127.0.0.1", Compatible}, {"::2", Compatible}, {"::ffff:0:127.0.0.1", Mapped},
		{"64:ff9b::7f00:1", NAT64}, {"64:ff9b:1::a00:1", NAT64}, {"64:ff9b::808:808", NAT64},
		{"2002:7f00:1::", SixToFour}, {"2002:808:808::1", SixToFour}, {"2001::1", Teredo}, {"2001:0:53aa:64c::1", Teredo},
		{"2001:10::1", Reserved}, {"2001:20::1", Reserved}, {"2001:db8::1", Documentation}, {"3fff::1", Documentation},
		{"100::1", Discard}, {"fc00::1", Private}, {"fdff::1", Private}, {"fe80::1", LinkLocal}, {"fec0::1", SiteLocal},
		{"ff02::1", Multicast}, {"ff0e::1", Multicast}, {"5f00::1", Reserved}, {"4000::1", Reserved}, {"64:ff9b:2::1", Reserved},
		{"2606:4700::5efe:10.0.0.1", ISATAP}, {"2606:4700::200:5efe:10.0.0.1", ISATAP}, {"fe80::1%eth0", LinkLocal},
		{"2606:4700::100:5efe:10.0.0.1", ""},
	} {
		t.Run("it classifies "+c.addr, func(t *testing.T) {
			if got := Class(netip.MustParseAddr(c.addr)); got != c.want {
				t.Errorf("Class(%s) = %q, want %q", c.addr, got, c.want)
			}
		})
	}
	if got := Class(netip.Addr{}); got != Invalid {
		t.Errorf("Class of no address = %q, want %q", got, Invalid)
	}
}

// FuzzClass holds Class to what the standard library knows, and to this: no form
// that carries a refused IPv4 address is public.
func FuzzClass(f *testing.F) {
	f.Add(uint64(0), uint64(1))
	f.Add(uint64(0x0064ff9b_00000000), uint64(0x7f000001))
	f.Add(uint64(0x2002_7f000001_0000), uint64(0))
	f.Fuzz(func(t *testing.T, high, low uint64) {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:8], high)
		binary.BigEndian.PutUint64(b[8:], low)
		a6 := netip.AddrFrom16(b)
		a4 := netip.AddrFrom4([4]byte(b[12:]))
		for _, a := range []netip.Addr{a6, a4} {
			if Class(a) == "" && (!a.IsGlobalUnicast() || a.IsPrivate()) {
				t.Errorf("Class(%s) is public", a)
			}
		}
		if a6.Is4In6() && Class(a6) != Mapped {
			t.Errorf("Class(%s) = %q, want %q", a6, Class(a6), Mapped)
		}
	})
}
