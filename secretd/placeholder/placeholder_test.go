package placeholder

import (
	"bytes"
	"errors"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/preset"
)

func TestMint(t *testing.T) {
	long := strings.Repeat("zQ9-", 40)
	for _, tt := range []struct {
		does, name, value, prefix string
		length                    int
	}{
		{"keeps the value's own beginning", "STRIPE_SECRET_KEY", "sk_test_" + long[:40], "sk_test_", 48},
		{"keeps it under any name", "MY_KEY", "ghp_" + strings.Repeat("q", 36), "ghp_", 40},
		{"takes the provider's beginning else", "ANTHROPIC_API_KEY", long[:108], "sk-ant-api03-", 108},
		{"knows OAuth tokens", "ANTHROPIC_API_KEY", "sk-ant-oat01-" + long[:80], "sk-ant-oat01-", 93},
		{"is neutral else", "MY_KEY", long[:64], "ssv_", 64},
		{"leaves the prefix out for want of room", "MY_KEY", long[:32], "", 32},
		{"is longer than a short value", "MY_KEY", "hunter22", "", 30},
		{"is longer than a short key of a provider", "AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE", "AKIA", 34},
		{"does not copy a huge length", "MY_KEY", strings.Repeat("x.", 4000), "ssv_", 512},
	} {
		t.Run("it "+tt.does, func(t *testing.T) {
			marker := NewMarker()
			got, err := Mint(marker, tt.name, []byte(tt.value))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(got, tt.prefix+marker) || len(got) != tt.length {
				t.Errorf("got %q (%d); want %q and the marker, %d bytes", got, len(got), tt.prefix, tt.length)
			}
			if Marker(got) != marker {
				t.Errorf("Marker(%q) = %q; want %q", got, Marker(got), marker)
			}
			if strings.Trim(got[len(tt.prefix):], alphabet) != "" {
				t.Errorf("%q is not base62 after its prefix", got)
			}
			again, err := Mint(marker, tt.name, []byte(tt.value))
			if err != nil || again == got {
				t.Errorf("minted %q twice, %v", got, err)
			}
		})
	}
}

func TestEveryPrefixGivesItsMarkerBack(t *testing.T) {
	for _, p := range append(preset.Prefixes(), "", neutral) {
		marker := NewMarker()
		got, err := Mint(marker, "X", []byte(p+strings.Repeat("-", 60)))
		if err != nil || Marker(got) != marker {
			t.Errorf("prefix %q: %q has marker %q; want %q, %v", p, got, Marker(got), marker, err)
		}
	}
	for _, s := range []string{"", "short", "sk-ant-api03-", "sk-ant-api03-tooshort", strings.Repeat("-", 60)} {
		if m := Marker(s); m != "" {
			t.Errorf("Marker(%q) = %q; want none", s, m)
		}
	}
}

func TestMintURL(t *testing.T) {
	for _, tt := range []struct{ does, value, want string }{
		{"replaces the password", "postgres://app:p%40%3A%2F@db.x.com:5432/main?sslmode=require", "postgres://app:TOKEN@db.x.com:5432/main?sslmode=require"},
		{"drops passwords in the query", "postgres://app:pw@db.x.com/main?sslmode=require&sslpassword=s3", "postgres://app:TOKEN@db.x.com/main?sslmode=require"},
		{"keeps an empty user", "redis://:hunter22hunter22@cache.x.com:6379/0", "redis://:TOKEN@cache.x.com:6379/0"},
		{"adds a password where there is none", "redis://cache.x.com:6379", "redis://:TOKEN@cache.x.com:6379"},
		{"replaces a webhook's path", "https://hooks.slack.com/services/T000/B000/abcdef?x=y", "https://hooks.slack.com/TOKEN"},
	} {
		t.Run("it "+tt.does, func(t *testing.T) {
			marker := NewMarker()
			got, err := Mint(marker, "DATABASE_URL", []byte(tt.value))
			if err != nil {
				t.Fatal(err)
			}
			if Marker(got) != marker {
				t.Fatalf("Marker(%q) = %q; want %q", got, Marker(got), marker)
			}
			at := strings.Index(got, marker)
			if masked := got[:at] + "TOKEN" + strings.TrimLeft(got[at:], alphabet); masked != tt.want {
				t.Errorf("got %q; want %q", masked, tt.want)
			}
			if _, err := url.Parse(got); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestMintTelegram wants the shape that Telegram's clients check before they send anything.
func TestMintTelegram(t *testing.T) {
	shape := regexp.MustCompile(`^[1-9][0-9]{9}:[A-Za-z0-9_-]{35}$`)
	for _, name := range []string{"TELEGRAM_BOT_TOKEN", "MY_BOT"} {
		marker := NewMarker()
		got, err := Mint(marker, name, []byte("1234567890:AAF-zQ9_zQ9-zQ9_zQ9-zQ9_zQ9-zQ9_zQ9"))
		if err != nil || !shape.MatchString(got) || Marker(got) != marker || strings.HasPrefix(got, "123456") {
			t.Errorf("%s: got %q, marker %q; want %q, %v", name, got, Marker(got), marker, err)
		}
	}
	for _, other := range []string{"12:AAF-zQ9_zQ9-zQ9_zQ9-zQ9_zQ9-zQ9_zQ9", "user:a password of thirty-five letters", "1234567890:short"} {
		if got, err := Mint(NewMarker(), "X", []byte(other)); err != nil || strings.Contains(got, ":") {
			t.Errorf("%q: got %q, %v", other, got, err)
		}
	}
}

func TestMintRefusesABadMarker(t *testing.T) {
	for _, m := range []string{"", "1234567", "123456789", "1234-678"} {
		if _, err := Mint(m, "X", []byte("value")); !errors.Is(err, api.ErrInvalid) {
			t.Errorf("marker %q: %v; want ErrInvalid", m, err)
		}
	}
}

func FuzzMint(f *testing.F) {
	f.Add("KEY", []byte("sk-ant-api03-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"))
	f.Add("DATABASE_URL", []byte("postgres://u:p@h/db"))
	f.Add("X", []byte(alphabet))
	f.Add("X", []byte{})
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		marker := NewMarker()
		got, err := Mint(marker, name, value)
		if err != nil {
			if len(value) > 0 && bytes.Contains([]byte(err.Error()), value) && len(value) > 16 && !strings.Contains(name, string(value)) {
				t.Fatalf("the error holds the value: %v", err)
			}
			return
		}
		if got == string(value) || !strings.Contains(got, marker) {
			t.Fatalf("Mint(%q) = %q", value, got)
		}
		if m := Marker(got); m != marker {
			t.Fatalf("Marker(%q) = %q; want %q", got, m, marker)
		}
	})
}
