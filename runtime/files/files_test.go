package files

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/api"
)

func entry(t *testing.T, name, placeholder string, hosts ...string) api.Entry {
	t.Helper()
	e := api.Entry{Name: name, Placeholder: placeholder}
	for _, h := range hosts {
		p, err := api.ParsePattern(h)
		if err != nil {
			t.Fatal(err)
		}
		e.Binding.Hosts = append(e.Binding.Hosts, p)
	}
	return e
}

func TestRender(t *testing.T) {
	entries := []api.Entry{
		entry(t, "TOKEN", "ssv_1abc", "api.example.com"), entry(t, "WILD", "ssv_1def", "*.example.com"),
		entry(t, "DATABASE_URL", "postgres://a%3Ab:1xyz@db.example.com/app"),
		{Name: "RAW", Placeholder: "1x", Exposed: true},
	}
	for _, tt := range []struct {
		name, text, want string
		err              error
	}{
		{"puts placeholders in", "a ${TOKEN}b${TOKEN}", "a ssv_1abcbssv_1abc", nil},
		{"leaves other dollars", "$HOME $5 $${TOKEN} $", "$HOME $5 ${TOKEN} $", nil},
		{"knows the host of a binding", "${TOKEN.host}", "api.example.com", nil},
		{"knows no host of a wildcard", "${WILD.host}", "", ErrPart},
		{"takes URLs apart", "${DATABASE_URL.host} ${DATABASE_URL.port} ${DATABASE_URL.user} ${DATABASE_URL.password} ${DATABASE_URL.path}", "db.example.com 5432 a:b 1xyz app", nil},
		{"escapes in .pgpass", "${DATABASE_URL.pgpass}", `db.example.com:5432:*:a\:b:1xyz`, nil},
		{"takes no other secret apart", "${TOKEN.user}", "", ErrPart},
		{"refuses an unknown secret", "${NONE}", "", ErrSecret},
		{"refuses an exposed secret", "${RAW}", "", ErrSecret},
		{"refuses an open brace", "${TOKEN", "", ErrSyntax},
		{"refuses what is no name", "${a b}", "", ErrSyntax},
		{"refuses an unknown part", "${TOKEN.secret}", "", ErrPart},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			tmpl, err := Parse(tt.text)
			var got []byte
			if err == nil {
				got, err = tmpl.Render(entries)
			}
			if string(got) != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("%q: got %q, %v; want %q, %v", tt.text, got, err, tt.want, tt.err)
			}
		})
	}
}

func TestFormatsAreTemplates(t *testing.T) {
	for _, name := range Formats() {
		secret := "MY_ACCESS_KEY_ID"
		if isLogin(name) {
			secret = "MY_REFRESH_TOKEN"
		}
		text, err := Text(name, Options{Secret: secret}, []string{"MY_SESSION_TOKEN"})
		if err != nil {
			t.Fatal(err)
		}
		tmpl, err := Parse(text)
		if err != nil || !slices.Contains(tmpl.Names(), secret) {
			t.Errorf("%s: %v, %q", name, err, tmpl.Names())
		}
		if name == "aws" && len(tmpl.Names()) != 3 {
			t.Errorf("aws speaks of %q", tmpl.Names())
		}
	}
	for _, tt := range []struct {
		format string
		o      Options
		want   error
	}{
		{"nosuch", Options{}, ErrFormat}, {"netrc", Options{}, ErrOption}, {"pgpass", Options{Host: "a.com"}, ErrOption},
		{"aws", Options{User: "a"}, ErrOption}, {"aws", Options{Secret: "X"}, ErrOption}, {"codex", Options{Secret: "X"}, ErrOption}, {"gh", Options{User: "a\nb: c"}, ErrOption},
		{"kubeconfig", Options{Secret: "T", Host: `a"`}, ErrOption},
	} {
		if _, err := Text(tt.format, tt.o, nil); !errors.Is(err, tt.want) {
			t.Errorf("%s %+v: got %v, want %v", tt.format, tt.o, err, tt.want)
		}
	}
}

// TestLoginFiles wants JSON that tells the client when its token ends.
func TestLoginFiles(t *testing.T) {
	entries := []api.Entry{
		{Name: "X_REFRESH_TOKEN", Placeholder: "refresh"}, {Name: "X_ACCESS_TOKEN", Placeholder: "access", Expires: time.UnixMilli(1800000000123)},
		{Name: "X_ID_TOKEN", Placeholder: "id"},
	}
	for _, name := range []string{"claude-code", "codex", "gemini-cli"} {
		text, err := Text(name, Options{Secret: "X_REFRESH_TOKEN"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		tmpl, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tmpl.Render(entries)
		if err != nil || !json.Valid(got) || !strings.Contains(string(got), `"refresh"`) || !strings.Contains(string(got), `"access"`) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		if name != "codex" && !strings.Contains(string(got), ":1800000000123,") {
			t.Errorf("%s: %s; want the expiry in milliseconds", name, got)
		}
	}
}

// FuzzTemplate wants whatever is rendered to hold the literal text and nothing of an escape lost.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"", "${A}", "$${A}", "${A.host}", "$$$${", "a${A}b${A.pgpass}", "${", "}{$"} {
		f.Add(s)
	}
	entries := []api.Entry{{Name: "A", Placeholder: "postgres://u:1p@h/d"}}
	f.Fuzz(func(t *testing.T, text string) {
		tmpl, err := Parse(text)
		if err != nil {
			return
		}
		if _, err := tmpl.Render(entries); err != nil && !errors.Is(err, ErrSecret) && len(text) < maxRendered/64 {
			t.Errorf("%q: %v", text, err)
		}
	})
}
