package cli

import (
	"strings"
	"testing"
	"unicode"
)

func TestEscapeText(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"leaves text alone", "Übung ✓ 日本\n", "Übung ✓ 日本\n"},
		{"escapes CSI", "\x1b[31mred", `\x1b[31mred`},
		{"escapes OSC and BEL", "\x1b]0;title\a", `\x1b]0;title\x07`},
		{"escapes the C1 form of CSI", "\u009b31m", `\u009b31m`},
		{"escapes carriage return and backspace", "a\r\bb", `a\x0d\x08b`},
		{"escapes bidi overrides", "a\u202eb", `a\u202eb`},
		{"escapes zero width", "a\u200bb", `a\u200bb`},
		{"escapes bytes that are no UTF-8", "a\x9bb\xff", `a\x9bb\xff`},
		{"escapes the replacement character whole", "a\ufffdb", `a\ufffdb`},
	}
	for _, tt := range tests {
		t.Run("it "+tt.name, func(t *testing.T) {
			if got := escapeText(tt.in); got != tt.want {
				t.Errorf("escapeText(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
	if got := escapeLine("a\nb"); got != `a\nb` {
		t.Errorf("escapeLine = %q", got)
	}
}

func FuzzEscapeText(f *testing.F) {
	f.Add("\x1b[0m\u202e\xff")
	f.Fuzz(func(t *testing.T, s string) {
		bad := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
		if got := escapeText(s); strings.IndexFunc(got, bad) >= 0 {
			t.Errorf("escapeText(%q) = %q", s, got)
		}
	})
}
