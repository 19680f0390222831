package api

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
)

func TestParsePattern(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"takes a host", "API.x.com.", "api.x.com"},
		{"takes a port", "x.com:8443", "x.com:8443"},
		{"takes a wildcard", "*.X.com", "*.x.com"},
		{"takes a wildcard with a port", "*.x.com:80", "*.x.com:80"},
		{"takes IPv4", "203.0.113.7:443", "203.0.113.7:443"},
		{"takes IPv4 without a port", "203.0.113.7", "203.0.113.7"},
		{"takes IPv6", "[2001:db8::7]:8443", "[2001:db8::7]:8443"},
		{"takes bare IPv6", "2001:DB8::7", "2001:db8::7"},
		{"takes bracketed IPv6", "[2001:db8::7]", "2001:db8::7"},
		{"unmaps IPv4 in IPv6", "[::ffff:203.0.113.7]:443", "203.0.113.7:443"},
		{"refuses nothing", "", ""},
		{"refuses a lone star", "*", ""},
		{"refuses a wildcard over a top-level domain", "*.com", ""},
		{"refuses a wildcard over a top-level domain with a dot", "*.com.", ""},
		{"refuses a wildcard over an address", "*.0.0.1", ""},
		{"refuses an inner star", "a.*.com", ""},
		{"refuses two stars", "*.*.x.com", ""},
		{"refuses part of a label", "*a.x.com", ""},
		{"refuses a URL", "https://x.com", ""},
		{"refuses a path", "x.com/a", ""},
		{"refuses userinfo", "a@x.com", ""},
		{"refuses port 0", "x.com:0", ""},
		{"refuses address port 0", "1.2.3.4:0", ""},
		{"refuses an empty port", "x.com:", ""},
		{"refuses a large port", "x.com:65536", ""},
		{"refuses a signed port", "x.com:+80", ""},
		{"refuses a zone", "[fe80::1%eth0]:443", ""},
		{"refuses short IPv4", "127.1", ""},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			got, err := ParsePattern(tt.in)
			if got.String() != tt.want || (err == nil) != (tt.want != "") {
				t.Fatalf("ParsePattern(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
			}
			if err != nil && !errors.Is(err, ErrInvalid) {
				t.Fatalf("%v does not wrap ErrInvalid", err)
			}
		})
	}
}

func TestPatternMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		host    Host
		port    uint16
		want    bool
	}{
		{"x.com", "x.com", 443, true},
		{"x.com", "x.com", 8443, false},
		{"x.com", "x.com", 80, false},
		{"x.com:8443", "x.com", 8443, true},
		{"x.com:8443", "x.com", 443, false},
		{"x.com", "a.x.com", 443, false},
		{"x.com", "evilx.com", 443, false},
		{"*.x.com", "a.x.com", 443, true},
		{"*.x.com", "a.b.x.com", 443, true},
		{"*.x.com", "x.com", 443, false},
		{"*.x.com", "evilx.com", 443, false},
		{"*.x.com", ".x.com", 443, false},
		{"*.x.com", "x.com.evil.com", 443, false},
		{"*.x.com", "", 443, false},
		{"203.0.113.7", "x.com", 443, false},
	} {
		p, err := ParsePattern(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(tt.host, tt.port); got != tt.want {
			t.Errorf("%q.Match(%q, %d) = %v; want %v", tt.pattern, tt.host, tt.port, got, tt.want)
		}
	}
	if (Pattern{}).Match("", 443) || (Pattern{}).Match("x.com", 443) || (Pattern{}).MatchAddr(netip.Addr{}, 443) {
		t.Error("the zero Pattern matches")
	}
}

func TestPatternMatchAddr(t *testing.T) {
	p, err := ParsePattern("203.0.113.7:443")
	if err != nil {
		t.Fatal(err)
	}
	if !p.MatchAddr(netip.MustParseAddr("203.0.113.7"), 443) || !p.MatchAddr(netip.MustParseAddr("::ffff:203.0.113.7"), 443) {
		t.Error("the address itself does not match")
	}
	if p.MatchAddr(netip.MustParseAddr("203.0.113.7"), 80) || p.MatchAddr(netip.MustParseAddr("203.0.113.8"), 443) {
		t.Error("another port or address matches")
	}
}

func TestBindingJSON(t *testing.T) {
	const text = `{"hosts":["*.x.com:8443","203.0.113.7:443"],"use":["header:x-api-key","bearer"],"allow_own":true}`
	var b Binding
	if err := json.Unmarshal([]byte(text), &b); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(b)
	if err != nil || string(got) != text {
		t.Fatalf("got %s, %v; want %s", got, err, text)
	}
	if _, err := json.Marshal(Binding{Hosts: []Pattern{{}}}); err == nil {
		t.Error("an empty pattern was marshalled")
	}
	if err := json.Unmarshal([]byte(`{"hosts":["*.com"]}`), &b); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v; want ErrInvalid", err)
	}
}

func FuzzParsePattern(f *testing.F) {
	for _, s := range []string{"x.com", "*.x.com:8443", "203.0.113.7:443", "[::1]:1", "::1", "*.", "x.com:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePattern(s)
		if err != nil {
			return
		}
		again, err := ParsePattern(p.String())
		if err != nil || again != p {
			t.Fatalf("%q parses to %q, which parses to %q, %v", s, p, again, err)
		}
		if p.Host == "" == !p.Addr.IsValid() {
			t.Fatalf("%q parses to %#v: neither name nor address, or both", s, p)
		}
	})
}
