package api

import (
	"errors"
	"fmt"
	"testing"
)

func TestParseUse(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"bearer", "bearer"}, {"bearer:Token", "bearer:token"}, {"bearer:Bearer", "bearer"},
		{"header:X-Api-Key", "header:x-api-key"}, {"basic", "basic"}, {"basic:user", "basic:user"},
		{"basic:password", "basic:password"}, {"query:key", "query:key"}, {"form:client_secret", "form:client_secret"},
		{"json:token", "json:token"}, {"path", "path"}, {"cookie:sid", "cookie:sid"}, {"sigv4", "sigv4"},
		{"jwt", "jwt"}, {"gcp", "gcp"}, {"postgres", "postgres"}, {"mysql", "mysql"}, {"redis", "redis"},
		{"oauth", "oauth"}, {"oauth:API.example.com", "oauth:api.example.com"}, {"oauth:*.x.com:8443", "oauth:*.x.com:8443"},
		{"oauth:", ""}, {"oauth:a b", ""}, {"", ""}, {"Bearer", ""}, {"header", ""}, {"header:", ""}, {"header:a b", ""}, {"header:a\r\nb", ""},
		{"header:Host", ""}, {"header:content-length", ""}, {"header:Connection", ""}, {"bearer:basic", ""},
		{"bearer:", ""}, {"bearer:a b", ""}, {"basic:both", ""}, {"query", ""}, {"query:a&b", ""}, {"query:a\x00", ""},
		{"path:x", ""}, {"sigv4:", ""}, {"nonsense", ""},
	} {
		got, err := ParseUse(tt.in)
		if got.String() != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("ParseUse(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseUse(%q): %v does not wrap ErrInvalid", tt.in, err)
		}
	}
}

func FuzzParseUse(f *testing.F) {
	for _, s := range []string{"bearer", "bearer:token", "header:x-api-key", "query:key", "basic:user", "header:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUse(s)
		if err != nil {
			return
		}
		if again, err := ParseUse(u.String()); err != nil || again != u {
			t.Fatalf("%q parses to %q, which parses to %q, %v", s, u, again, err)
		}
	})
}

func TestCodesKeepTheirErrors(t *testing.T) {
	for i, want := range sentinels() {
		if got := FromCode(ErrorCode(i)); got != want {
			t.Errorf("FromCode(%d) = %v; want %v", i, got, want)
		}
		if want == nil {
			continue
		}
		if got := FromCode(Code(fmt.Errorf("doing: %w", want))); got != want {
			t.Errorf("%v crosses the wire as %v", want, got)
		}
	}
	if got := FromCode(Code(errors.New("disk"))); got != ErrUnavailable {
		t.Errorf("an inner error crosses the wire as %v", got)
	}
	if !errors.Is(&MissingError{Agent: "a", Names: []string{"B"}}, ErrNotFound) {
		t.Error("a MissingError is not ErrNotFound")
	}
}

func TestNames(t *testing.T) {
	for s, want := range map[string]bool{"A": true, "_a1": true, "": false, "1A": false, "A-B": false, "A B": false, "Ä": false, "A=": false} {
		if err := CheckName(s); (err == nil) != want {
			t.Errorf("CheckName(%q) = %v", s, err)
		}
	}
	for s, want := range map[string]bool{"my-agent": true, "a1": true, "": false, "1a": false, "My": false, "a_b": false, "../a": false} {
		if err := CheckAgent(s); (err == nil) != want {
			t.Errorf("CheckAgent(%q) = %v", s, err)
		}
	}
	for s, want := range map[string]bool{"20261123-a1": true, "": false, ".": false, "../a": false, "a/b": false, "a\x00": false} {
		if err := CheckRun(s); (err == nil) != want {
			t.Errorf("CheckRun(%q) = %v", s, err)
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	s := Secret(func() []byte { return []byte("hunter22") })
	if got := fmt.Sprintf("%v %s %#v %+v", s, s, s, s); got != "[secret] [secret] [secret] [secret]" {
		t.Errorf("got %q", got)
	}
}
