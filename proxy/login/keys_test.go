package login

import (
	"bytes"
	"net/url"
	"testing"

	"github.com/superserve/superserve/secretd/api"
)

func TestParseValue(t *testing.T) {
	tests := []struct {
		in, user, password string
		ok                 bool
	}{
		{"postgres://u:p@h:1/d", "u", "p", true},
		{"postgres://u%40x:p%40%3A%2F%25%2B%26%3D%23@h/d?x=a@b", "u@x", "p@:/%+&=#", true},
		{"rediss://:only@h", "", "only", true},
		{"mysql://u:a:b@h", "u", "a:b", true},
		{"redis://h:1", "", "", false},
		{"redis://u:%zz@h", "", "", false},
		{"just:a@password%20", "", "just:a@password%20", true},
	}
	for _, tt := range tests {
		r, ok := parseValue([]byte(tt.in))
		if ok != tt.ok || ok && (r.User != tt.user || string(r.Password) != tt.password) {
			t.Errorf("parseValue(%q) = %+v, %v", tt.in, r, ok)
		}
	}
}

// FuzzValue has net/url as its oracle.
func FuzzValue(f *testing.F) {
	f.Add("postgres://u:p%40@h:1/d")
	f.Add("redis://:p@h?x=@")
	f.Add("x://a@b@c")
	f.Fuzz(func(t *testing.T, text string) {
		value := []byte(text)
		got, ok := parseValue(value)
		if ok && !bytes.Equal(value, []byte(text)) {
			t.Fatal("the value was changed")
		}
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.User == nil || !bytes.Contains(value, []byte("://")) || u.Opaque != "" {
			return
		}
		if before, _, _ := bytes.Cut(value, []byte("://")); string(before) != u.Scheme {
			return // net/url lower-cases it, or takes "//" alone for an authority
		}
		password, _ := u.User.Password()
		if !ok || got.User != u.User.Username() || string(got.Password) != password {
			t.Fatalf("parseValue(%q) = %+v, net/url says %q %q", text, got, u.User.Username(), password)
		}
	})
}

func TestNewKeys(t *testing.T) {
	pg := api.Binding{Uses: []api.Use{{Kind: api.UsePostgres}}}
	keys := newKeys([]api.Entry{
		{Name: "URL", Placeholder: "postgres://u:fake@h:1/d", Binding: pg},
		{Name: "BARE", Placeholder: "ssv_fake", Binding: pg},
		{Name: "EXPOSED", Placeholder: "ssv_fake", Binding: pg, Exposed: true},
		{Name: "HTTP", Placeholder: "ssv_fake"},
	}, api.UsePostgres)
	if len(keys) != 2 || keys[0].User != "u" || keys[0].Password != "fake" || keys[1].User != "" || keys[1].Password != "ssv_fake" {
		t.Errorf("keys %+v", keys)
	}
}
