package secretd_test

import (
	"errors"
	"testing"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/secretdtest"
)

// TestBindWhileARunHoldsIt has an unbound secret be allowed to one run, and bound for all.
func TestBindWhileARunHoldsIt(t *testing.T) {
	d := secretdtest.Start(t)
	const value = "a value of no provider"
	set(t, d, "MY_TOKEN", value)
	first, second := grantTo(t, d, "run-1", api.Wanted{Name: "MY_TOKEN"}), grantTo(t, d, "run-2", api.Wanted{Name: "MY_TOKEN"})
	ask := func(r run, host string) api.ResolveRequest { return r.request("MY_TOKEN", host) }
	first.refuses(t, ask(first, "api.example.com"), api.ErrUnbound)

	once := bindingOf(t, "api.example.com", "")
	if err := d.Client.BindRun(t.Context(), "run-1", "MY_TOKEN", once); err != nil {
		t.Fatal(err)
	}
	first.want(t, ask(first, "api.example.com"), value)
	first.refuses(t, ask(first, "other.example.com"), api.ErrHost)
	second.refuses(t, ask(second, "api.example.com"), api.ErrUnbound)
	if infos, err := d.Client.List(t.Context(), "my-agent"); err != nil || infos[0].Binding.Bound() {
		t.Errorf("it was stored: %+v, %v", infos, err)
	}

	if err := d.Client.Bind(t.Context(), "my-agent", "MY_TOKEN", bindingOf(t, "other.example.com", "")); err != nil {
		t.Fatal(err)
	}
	second.want(t, ask(second, "other.example.com"), value)
	for name, err := range map[string]error{
		"another run": d.Client.BindRun(t.Context(), "run-3", "MY_TOKEN", once), "another secret": d.Client.BindRun(t.Context(), "run-1", "OTHER", once),
	} {
		if !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: %v; want ErrNotFound", name, err)
		}
	}
	if err := d.Client.BindRun(t.Context(), "run-1", "MY_TOKEN", api.Binding{}); !errors.Is(err, api.ErrInvalid) {
		t.Errorf("no host: %v; want ErrInvalid", err)
	}
	set(t, d, "ANTHROPIC_API_KEY", realKey)
	grantTo(t, d, "run-4", api.Wanted{Name: "ANTHROPIC_API_KEY"})
	if err := d.Client.BindRun(t.Context(), "run-4", "ANTHROPIC_API_KEY", once); !errors.Is(err, api.ErrDenied) {
		t.Errorf("a bound secret: %v; want ErrDenied", err)
	}
}
