package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/bao/vaulttest"
	"github.com/superserve/superserve/secretd/client"
)

// TestTwoHostsOnVault has two daemons share their secrets and the store's key through a
// real server of Vault.
func TestTwoHostsOnVault(t *testing.T) {
	v := vaulttest.Start(t)
	if status, text := v.Do(http.MethodPost, "transit/keys/superserve", nil, nil); status != http.StatusOK && status != http.StatusNoContent {
		t.Fatalf("key: status %d: %s", status, text)
	}
	q := url.Values{"token": {v.Token(t, vaulttest.Policy(t), time.Hour)}, "ca": {v.CAFile}}.Encode()
	host := func() *site {
		dir := stateDir(t)
		s := &site{dir: dir, Client: client.New(socketIn(dir)), args: []string{"--state", dir, "--socket", socketIn(dir),
			"--store", "vault://" + v.Listen + "/kv/superserve?" + q, "--key", "transit:" + v.Address + "/transit/superserve?" + q}}
		s.cmd = command(t, s.args...)
		serving(t, s.cmd)
		return s
	}
	a, b := host(), host()
	set := func(value string) {
		t.Helper()
		if _, err := a.Set(t.Context(), "my-agent", []api.Setting{{Name: "ANTHROPIC_API_KEY", Value: []byte(value)}}); err != nil {
			t.Fatal(err)
		}
	}
	set(realKey)
	run := b.runs(t, "ANTHROPIC_API_KEY")
	if got, err := run.resolve(t); err != nil || got != realKey {
		t.Fatalf("set on one, used on the other: %q, %v", got, err)
	}
	for i := range 3 {
		next := fmt.Sprintf("sk-ant-api03-value-%d", i)
		set(next)
		within(t, "rotation", func() bool { got, err := run.resolve(t); return err == nil && got == next })
	}
	t.Run("they share agents", func(t *testing.T) { shareAgents(t, a, b) })
	t.Run("they share a day's budget", func(t *testing.T) { shareBudget(t, a, b) })
	t.Run("a sealed server gives nothing, and goes on", func(t *testing.T) {
		v.Seal(t)
		within(t, "refusal", func() bool { _, err := run.resolve(t); return errors.Is(err, api.ErrUnavailable) })
		if _, err := a.Set(t.Context(), "my-agent", []api.Setting{{Name: "OTHER_KEY", Value: []byte("x")}}); err == nil {
			t.Error("set a secret at a sealed server")
		}
		v.Unseal(t)
		within(t, "use", func() bool { got, err := run.resolve(t); return err == nil && got == "sk-ant-api03-value-2" })
	})
	t.Run("a killed server loses nothing", func(t *testing.T) {
		set("sk-ant-api03-the-last")
		v.Kill()
		within(t, "refusal", func() bool { _, err := run.resolve(t); return err != nil }) // by its next look at the server
		v.Run(t)
		v.Unseal(t)
		within(t, "use", func() bool { got, err := run.resolve(t); return err == nil && got == "sk-ant-api03-the-last" })
	})
	if _, err := a.Delete(t.Context(), "my-agent", "ANTHROPIC_API_KEY", false); err != nil {
		t.Fatal(err)
	}
	within(t, "revocation", func() bool { _, err := run.resolve(t); return errors.Is(err, api.ErrRevoked) })
}

// shareBudget has runs on two hosts spend in turn what one secret may cost a day.
func shareBudget(t *testing.T, hosts ...*site) {
	var runs []func(api.Charge) api.Verdict
	for i, host := range hosts {
		limits := api.Limits{TokensPerDay: 60, RequestsPerMinute: 2}
		run := host.granted(t, api.GrantRequest{Agent: "my-agent", Run: fmt.Sprint("spends-", i), Secrets: []api.Wanted{{Name: "ANTHROPIC_API_KEY", Limits: limits}}})
		runs = append(runs, func(c api.Charge) api.Verdict {
			t.Helper()
			c.Placeholder = run.placeholder
			v, err := run.Charge(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			return v
		})
	}
	for range 2 {
		runs[0](api.Charge{Ask: true})
	}
	for range 3 {
		for _, run := range runs {
			run(api.Charge{Spend: api.Spend{Tokens: 9}})
		}
	}
	if v := runs[0](api.Charge{Ask: true}); v.Limit != "requests_per_minute" {
		t.Errorf("a third request in a minute, after another host has spent: %+v", v)
	}
	runs[1](api.Charge{Spend: api.Spend{Tokens: 6}})
	if v := runs[1](api.Charge{Ask: true}); v.Limit != "tokens_per_day" || v.Used != 60 {
		t.Errorf("54 tokens by two hosts and 6: %+v", v)
	}
}
