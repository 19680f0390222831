package api

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestParseHost(t *testing.T) {
	long := strings.Repeat("a.", 126) + "b"
	for _, tt := range []struct{ name, in, want string }{
		{"keeps a canonical name", "api.x.com", "api.x.com"},
		{"lowers ASCII letters", "API.X.Com", "api.x.com"},
		{"removes one final dot", "api.x.com.", "api.x.com"},
		{"takes one label", "localhost", "localhost"},
		{"takes underscores", "_a.b_c.com", "_a.b_c.com"},
		{"takes A-labels", "xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"takes digits before the last label", "1.2.3.x", "1.2.3.x"},
		{"takes 253 bytes", long, long},
		{"refuses nothing", "", ""},
		{"refuses a dot", ".", ""},
		{"refuses two final dots", "x.com..", ""},
		{"refuses an empty label", "a..b", ""},
		{"refuses a leading dot", ".x.com", ""},
		{"refuses IPv4", "127.0.0.1", ""},
		{"refuses IPv4 with a dot", "127.0.0.1.", ""},
		{"refuses short IPv4", "127.1", ""},
		{"refuses decimal IPv4", "2130706433", ""},
		{"refuses hexadecimal IPv4", "0x7f000001", ""},
		{"refuses mixed IPv4", "0x7f.1", ""},
		{"refuses upper-case hexadecimal", "0X7F.0X1", ""},
		{"refuses an empty hexadecimal label", "a.0x", ""},
		{"refuses IPv6", "::1", ""},
		{"refuses bracketed IPv6", "[::1]", ""},
		{"refuses a port", "x.com:443", ""},
		{"refuses a NUL", "x.com\x00.evil.com", ""},
		{"refuses a space", "x.com ", ""},
		{"refuses a comma", "a,b", ""},
		{"refuses percent coding", "a%2eb", ""},
		{"refuses the Kelvin sign", "\u212aelvin.com", ""},
		{"refuses a full-width dot", "x\uff0ecom", ""},
		{"refuses a leading hyphen", "-x.com", ""},
		{"refuses a trailing hyphen", "x-.com", ""},
		{"refuses a label of 64 bytes", strings.Repeat("a", 64) + ".com", ""},
		{"refuses 254 bytes", long + "c", ""},
		{"refuses a wildcard", "*.x.com", ""},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			got, err := ParseHost(tt.in)
			if string(got) != tt.want || (err == nil) != (tt.want != "") {
				t.Fatalf("ParseHost(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
			}
			if err != nil && !errors.Is(err, ErrInvalid) {
				t.Fatalf("ParseHost(%q): %v does not wrap ErrInvalid", tt.in, err)
			}
		})
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"a.b", "A.B.", "127.1", "0x7f", "xn--a", "a..b", "*.a.b", "a\x00b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHost(s)
		if err != nil {
			if h != "" || !errors.Is(err, ErrInvalid) {
				t.Fatalf("ParseHost(%q) = %q, %v", s, h, err)
			}
			return
		}
		again, err := ParseHost(string(h))
		if err != nil || again != h {
			t.Fatalf("ParseHost(%q) = %q, which parses to %q, %v", s, h, again, err)
		}
		if _, err := netip.ParseAddr(string(h)); err == nil || len(h) > 253 || len(h) == 0 {
			t.Fatalf("ParseHost(%q) = %q: not a name", s, h)
		}
		for _, c := range []byte(h) {
			if c >= 'A' && c <= 'Z' || c <= ' ' || c >= 0x7f {
				t.Fatalf("ParseHost(%q) = %q: byte %#x", s, h, c)
			}
		}
	})
}
