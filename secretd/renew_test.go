package secretd_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/secretdtest"
)

// valueOf asks for the value of a secret of a run.
func valueOf(t testing.TB, r run, name, host, use string) string {
	t.Helper()
	for _, e := range r.reply.Entries {
		if e.Name != name {
			continue
		}
		u, err := api.ParseUse(use)
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.Resolve(t.Context(), api.ResolveRequest{Placeholder: e.Placeholder, Host: api.Host(host), Port: 443, Use: u})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return string(s())
	}
	t.Fatalf("the run has no %s", name)
	return ""
}

func placeholderOf(r run, name string) string {
	for _, e := range r.reply.Entries {
		if e.Name == name {
			return e.Placeholder
		}
	}
	return ""
}

const (
	oldRefresh = "refresh-token-of-before-REAL"
	newRefresh = "refresh-token-of-after-REAL"
	oldAccess  = "access-token-of-before-REAL"
	newAccess  = "access-token-of-after-REAL"
)

// storeLogin stores a login and another secret.
func storeLogin(t testing.TB, d *secretdtest.Daemon) {
	t.Helper()
	refresh, access := bindingOf(t, "auth.x.com", "oauth:api.x.com"), bindingOf(t, "api.x.com", "bearer")
	if _, err := d.Client.Set(t.Context(), "my-agent", []api.Setting{
		{Name: "X_REFRESH_TOKEN", Value: []byte(oldRefresh), Binding: &refresh},
		{Name: "X_ACCESS_TOKEN", Value: []byte(oldAccess), Binding: &access},
		{Name: "API_KEY", Value: []byte(realKey), Binding: &access},
	}); err != nil {
		t.Fatal(err)
	}
}

func TestRenew(t *testing.T) {
	d := secretdtest.Start(t)
	storeLogin(t, d)
	wanted := []api.Wanted{{Name: "X_REFRESH_TOKEN"}, {Name: "X_ACCESS_TOKEN"}, {Name: "API_KEY"}}
	one, two := grantTo(t, d, "run-1", wanted...), grantTo(t, d, "run-2", wanted...)
	for _, r := range []run{one, two} {
		if got := valueOf(t, r, "X_REFRESH_TOKEN", "auth.x.com", "oauth:api.x.com"); got != oldRefresh {
			t.Fatalf("got %q", got)
		}
	}
	if err := one.Renew(t.Context(), api.Renewal{
		Placeholder: placeholderOf(one, "X_REFRESH_TOKEN"), Refresh: []byte(newRefresh), Access: []byte(newAccess), ID: []byte("no-such-secret"),
	}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"X_REFRESH_TOKEN": newRefresh, "X_ACCESS_TOKEN": newAccess, "API_KEY": realKey} {
		host, use := "api.x.com", "bearer"
		if name == "X_REFRESH_TOKEN" {
			host, use = "auth.x.com", "oauth:api.x.com"
		}
		if got := valueOf(t, one, name, host, use); got != want {
			t.Errorf("the run that renewed: %s is %q; want %q", name, got, want)
		}
		if name == "API_KEY" {
			continue
		}
		<-two.changes // of the two that were renewed
	}
	if got := valueOf(t, two, "X_REFRESH_TOKEN", "auth.x.com", "oauth:api.x.com"); got != newRefresh {
		t.Errorf("another run: got %q; want %q", got, newRefresh)
	}
	one.Close()
	two.Close()
	d.Restart()
	next := grantTo(t, d, "run-3", wanted...)
	if got := valueOf(t, next, "X_REFRESH_TOKEN", "auth.x.com", "oauth:api.x.com"); got != newRefresh {
		t.Errorf("the next run, after a restart: got %q; want %q", got, newRefresh)
	}
	infos, err := d.Client.List(t.Context(), "my-agent")
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		if strings.HasPrefix(info.Name, "X_") && (info.Version != 2 || len(info.Binding.Hosts) != 1) {
			t.Errorf("%+v; want version 2 under the same binding", info)
		}
	}
}

// TestRenewRefuses: the right to renew is one refresh token's, by its stored binding.
func TestRenewRefuses(t *testing.T) {
	d := secretdtest.Start(t)
	storeLogin(t, d)
	override := bindingOf(t, "api.x.com", "oauth")
	r := grantTo(t, d, "run-1", api.Wanted{Name: "X_REFRESH_TOKEN"}, api.Wanted{Name: "API_KEY", Binding: &override})
	for name, tt := range map[string]struct {
		r    api.Renewal
		want error
	}{
		"a secret that no provider renews": {api.Renewal{Placeholder: placeholderOf(r, "API_KEY"), Refresh: []byte(newRefresh)}, api.ErrDenied},
		"an unknown placeholder":           {api.Renewal{Placeholder: "ssv_other", Refresh: []byte(newRefresh)}, api.ErrUnknown},
		"a short token":                    {api.Renewal{Placeholder: placeholderOf(r, "X_REFRESH_TOKEN"), Refresh: []byte("short")}, api.ErrInvalid},
		"a token with a NUL":               {api.Renewal{Placeholder: placeholderOf(r, "X_REFRESH_TOKEN"), Refresh: []byte("refresh\x00token-of-a-kind")}, api.ErrInvalid},
		"a URL":                            {api.Renewal{Placeholder: placeholderOf(r, "X_REFRESH_TOKEN"), Refresh: []byte("https://evil.example/token")}, api.ErrInvalid},
		"one good, one bad":                {api.Renewal{Placeholder: placeholderOf(r, "X_REFRESH_TOKEN"), Refresh: []byte(newRefresh), Access: []byte("short")}, api.ErrInvalid},
	} {
		if err := r.Renew(t.Context(), tt.r); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v; want %v", name, err, tt.want)
		}
	}
	if got := valueOf(t, r, "X_REFRESH_TOKEN", "auth.x.com", "oauth:api.x.com"); got != oldRefresh {
		t.Errorf("the refresh token is %q; want it unchanged", got)
	}
	if _, err := d.Client.Delete(t.Context(), "my-agent", "X_REFRESH_TOKEN", false); err != nil {
		t.Fatal(err)
	}
	if err := r.Renew(t.Context(), api.Renewal{Placeholder: placeholderOf(r, "X_REFRESH_TOKEN"), Refresh: []byte(newRefresh)}); !errors.Is(err, api.ErrRevoked) {
		t.Errorf("after it was deleted: got %v; want ErrRevoked", err)
	}
}
