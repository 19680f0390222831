package egress

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/secretd/api"
)

func mustParse(t testing.TB, r Rules) *Policy {
	t.Helper()
	p, err := Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func pattern(t testing.TB, s string) api.Pattern {
	t.Helper()
	p, err := api.ParsePattern(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestName(t *testing.T) {
	bound := []api.Pattern{pattern(t, "api.x.com"), pattern(t, "*.amazonaws.com"), pattern(t, "db.x.com:5432")}
	public := Rules{Mode: ModePublic, Bound: bound, Deny: []string{"evil.com", "*.evil.com", "half.com:80"}, Allow: []string{"api.x.com:8443"}}
	listed := Rules{Mode: ModeBound, Bound: bound, Allow: []string{"pypi.org", "*.pythonhosted.org:443", "10.0.0.0/8"}, Deny: []string{"no.pythonhosted.org"}}
	for _, c := range []struct {
		name  string
		rules Rules
		host  api.Host
		port  uint16
		want  Decision
	}{
		{"allows any name of the public internet", public, "example.org", 80, Decision{true, "public", ""}},
		{"refuses a denied name", public, "evil.com", 443, Decision{false, "deny evil.com", ReasonDenied}},
		{"refuses a name below a denied one", public, "a.b.evil.com", 443, Decision{false, "deny *.evil.com", ReasonDenied}},
		{"compares whole labels", public, "notevil.com", 443, Decision{true, "public", ""}},
		{"denies one port alone", public, "half.com", 443, Decision{true, "public", ""}},
		{"denies that port", public, "half.com", 80, Decision{false, "deny half.com:80", ReasonDenied}},
		{"allows a bound host on its port", public, "api.x.com", 443, Decision{true, "bound api.x.com", ""}},
		{"refuses a bound host on another port", public, "api.x.com", 80, Decision{false, "bound api.x.com", ReasonBoundPort}},
		{"allows a bound host on a port that is allowed by itself", public, "api.x.com", 8443, Decision{true, "allow api.x.com:8443", ""}},
		{"allows below a bound wildcard", public, "s3.eu-west-1.amazonaws.com", 443, Decision{true, "bound *.amazonaws.com", ""}},
		{"takes a bound apex for any name", public, "amazonaws.com", 80, Decision{true, "public", ""}},
		{"allows the port of a binding", public, "db.x.com", 5432, Decision{true, "bound db.x.com:5432", ""}},
		{"refuses the default port of such a binding", public, "db.x.com", 443, Decision{false, "bound db.x.com:5432", ReasonBoundPort}},
		{"refuses what is in no list", listed, "example.org", 443, Decision{false, "bound", ReasonUnlisted}},
		{"allows a listed name on any port", listed, "pypi.org", 80, Decision{true, "allow pypi.org", ""}},
		{"allows a listed wildcard on its port", listed, "files.pythonhosted.org", 443, Decision{true, "allow *.pythonhosted.org:443", ""}},
		{"refuses a listed wildcard on another port", listed, "files.pythonhosted.org", 80, Decision{false, "bound", ReasonUnlisted}},
		{"refuses the apex of a wildcard", listed, "pythonhosted.org", 443, Decision{false, "bound", ReasonUnlisted}},
		{"denies before it allows", listed, "no.pythonhosted.org", 443, Decision{false, "deny no.pythonhosted.org", ReasonDenied}},
		{"keeps bound hosts in a closed list", Rules{Mode: ModeBound, Bound: bound}, "api.x.com", 443, Decision{true, "bound api.x.com", ""}},
		{"lets nothing out when off", Rules{Mode: ModeNone, Bound: bound, Allow: []string{"pypi.org"}}, "pypi.org", 443, Decision{false, "none", ReasonOff}},
		{"lets nothing out without a mode", Rules{}, "pypi.org", 443, Decision{false, "none", ReasonOff}},
		{"refuses no name", public, "", 443, Decision{false, "public", ReasonUnlisted}},
	} {
		t.Run("it "+c.name, func(t *testing.T) {
			got := mustParse(t, c.rules).Name(c.host, c.port)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("Name(%s, %d) (-want +got):\n%s", c.host, c.port, diff)
			}
		})
	}
	if d := (&Policy{}).Name("a.com", 443); d.Allow {
		t.Error("the zero policy allows")
	}
}

func TestAddr(t *testing.T) {
	own := netip.MustParseAddr("93.184.216.34")
	base := Rules{Mode: ModePublic, Own: func(a netip.Addr) bool { return a == own }}
	with := func(change func(*Rules)) Rules { r := base; change(&r); return r }
	private := with(func(r *Rules) { r.AllowPrivate = []string{"10.0.0.0/8", "169.254.0.0/16"} })
	for _, c := range []struct {
		name  string
		rules Rules
		addr  string
		want  Decision
	}{
		{"allows a public address", base, "1.1.1.1", Decision{true, "public", ""}},
		{"refuses a private one", base, "10.1.2.3", Decision{false, Private, ReasonAddress}},
		{"refuses the host's own", base, "93.184.216.34", Decision{false, Own, ReasonAddress}},
		{"refuses the host's own in mapped form", base, "::ffff:93.184.216.34", Decision{false, Own, ReasonAddress}},
		{"judges a mapped address as IPv4", base, "::ffff:10.0.0.1", Decision{false, Private, ReasonAddress}},
		{"allows a private one that is named", private, "10.1.2.3", Decision{true, "allow_private 10.0.0.0/8", ""}},
		{"refuses metadata in a wide block", private, "169.254.169.254", Decision{false, Metadata, ReasonAddress}},
		{"allows metadata named alone", with(func(r *Rules) { r.AllowPrivate = []string{"169.254.169.254"} }), "169.254.169.254",
			Decision{true, "allow_private 169.254.169.254/32", ""}},
		{"refuses a private one that is only allowed", with(func(r *Rules) { r.Mode, r.Allow = ModeBound, []string{"10.0.0.0/8"} }), "10.1.2.3",
			Decision{false, Private, ReasonAddress}},
		{"wants a rule beside allow_private in a closed list", with(func(r *Rules) { r.Mode, r.AllowPrivate = ModeBound, []string{"10.0.0.0/8"} }), "10.1.2.3",
			Decision{false, "bound", ReasonUnlisted}},
		{"allows both together", with(func(r *Rules) {
			r.Mode, r.Allow, r.AllowPrivate = ModeBound, []string{"10.1.0.0/16:443"}, []string{"10.0.0.0/8"}
		}), "10.1.2.3", Decision{true, "allow 10.1.0.0/16:443", ""}},
		{"denies a block", with(func(r *Rules) { r.Deny = []string{"1.1.1.0/24"} }), "1.1.1.1", Decision{false, "deny 1.1.1.0/24", ReasonDenied}},
		{"allows a bound address", with(func(r *Rules) { r.Mode, r.Bound = ModeBound, []api.Pattern{pattern(t, "9.9.9.9")} }), "9.9.9.9", Decision{true, "bound 9.9.9.9", ""}},
		{"exempts an address that is dialled elsewhere", with(func(r *Rules) {
			r.Exempt = []netip.AddrPort{netip.MustParseAddrPort("203.0.113.7:443")}
		}), "203.0.113.7", Decision{true, "public", ""}},
		{"refuses a synthetic address without a name", base, "198.18.0.1", Decision{false, Synthetic, ReasonAddress}},
		{"lets nothing out when off", Rules{}, "1.1.1.1", Decision{false, "none", ReasonOff}},
	} {
		t.Run("it "+c.name, func(t *testing.T) {
			got := mustParse(t, c.rules).Addr(netip.MustParseAddr(c.addr), 443)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("Addr(%s) (-want +got):\n%s", c.addr, diff)
			}
		})
	}
}

func TestResolved(t *testing.T) {
	p := mustParse(t, Rules{Mode: ModeBound, Allow: []string{"a.com"}, Deny: []string{"1.1.1.1"}, AllowPrivate: []string{"10.0.0.0/8"}})
	for addr, want := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": false, "10.0.0.1": true, "192.168.0.1": false, "127.0.0.1": false, "::ffff:127.0.0.1": false,
		"169.254.169.254": false, "::1": false, "64:ff9b::a00:1": false, "fd00:ec2::254": false, "168.63.129.16": false,
	} {
		if got := p.Resolved(netip.MustParseAddr(addr), 443); got.Allow != want {
			t.Errorf("Resolved(%s) = %+v, want allow %v", addr, got, want)
		}
	}
	if (&Policy{}).Resolved(netip.MustParseAddr("8.8.8.8"), 443).Allow {
		t.Error("the zero policy allows")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ entry, want string }{
		{"*", "bare *"}, {"", "host"}, {"https://a.com", "not a URL"}, {"a.com/x", ""}, {"user@a.com", "(not shown)"},
		{"a.com:0", "port"}, {"a.com:70000", "port"}, {"a.com:+80", "port"}, {"a.com:", "port"}, {"10.1.0.0/8", "10.0.0.0/8"},
		{"::ffff:10.0.0.0/104", "IPv4"}, {"fe80::1%eth0", "zone"}, {"a..com", ""}, {"*.*.com", ""}, {"exämple.com", ""}, {"a b.com", ""},
	} {
		_, err := Parse(Rules{Mode: ModePublic, Allow: []string{c.entry}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "network allow") {
			t.Errorf("Parse(allow %q): %v, want an error about %q", c.entry, err, c.want)
		}
	}
	if _, err := Parse(Rules{Mode: "open"}); err == nil {
		t.Error("Parse takes an unknown mode")
	}
	if _, err := Parse(Rules{AllowPrivate: []string{"a.com"}}); err == nil {
		t.Error("Parse takes a name for a CIDR")
	}
}

func TestExplainHasASentenceForEachReason(t *testing.T) {
	for _, r := range []string{ReasonOff, ReasonDenied, ReasonUnlisted, ReasonBoundPort, ReasonAddress, ReasonServer} {
		if text := (Decision{Reason: r, Rule: "x"}).Explain(); text == r || text == "" {
			t.Errorf("Explain of %s = %q", r, text)
		}
	}
}

// FuzzParse holds every rule that parses to deny what it names.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a.com", "*.a.com:443", "10.0.0.0/8", "[2001:db8::/32]:443", "[::1]", "1.2.3.4:80", "*", "a.com:"} {
		f.Add(s, "x.a.com", uint16(443))
	}
	f.Fuzz(func(t *testing.T, entry, name string, port uint16) {
		p, err := Parse(Rules{Mode: ModePublic, Deny: []string{entry}})
		if err != nil {
			return
		}
		if h, err := api.ParseHost(name); err == nil {
			if d := p.Name(h, port); d.Allow == (d.Reason != "") {
				t.Errorf("Name(%s) = %+v", h, d)
			}
		}
		if h, err := api.ParseHost(entry); err == nil && p.Name(h, port).Allow {
			t.Errorf("deny %q allows %s", entry, h)
		}
		if a, err := netip.ParseAddr(entry); err == nil && p.Addr(a, port).Allow {
			t.Errorf("deny %q allows %s", entry, a)
		}
	})
}

func BenchmarkName(b *testing.B) {
	rules := Rules{Mode: ModePublic, Bound: []api.Pattern{pattern(b, "api.x.com"), pattern(b, "*.amazonaws.com")}}
	for i := range 1000 {
		rules.Deny = append(rules.Deny, "*.blocked"+strings.Repeat("x", i%7)+".example"+string(rune('a'+i%26))+".com")
	}
	p := mustParse(b, rules)
	b.ReportAllocs()
	for b.Loop() {
		p.Name("a.b.c.example.org", 443)
	}
}
