package secretd_test

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/secretdtest"
)

// limited grants a run the key with limits.
func limited(t *testing.T, d *secretdtest.Daemon, id string, l api.Limits) (run, func(api.Charge) api.Verdict) {
	t.Helper()
	r := grantTo(t, d, id, api.Wanted{Name: "ANTHROPIC_API_KEY", Limits: l})
	return r, func(c api.Charge) api.Verdict {
		t.Helper()
		c.Placeholder = r.Entries()[0].Placeholder
		v, err := r.Charge(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestRunsShareADay has two runs of one agent spend from one day's budget, each from its own, and a restart forget
// nothing of either.
func TestRunsShareADay(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "ANTHROPIC_API_KEY", realKey)
	limits := api.Limits{TokensPerRun: 80, MicrosPerDay: 1000}
	first, chargeFirst := limited(t, d, "run-1", limits)
	_, chargeSecond := limited(t, d, "run-2", limits)
	if got := first.Entries()[0].Limits; got != limits {
		t.Errorf("the proxy sees limits %+v", got)
	}
	if v := chargeFirst(api.Charge{Ask: true}); v.Limit != "" {
		t.Fatalf("a new day begins with %+v", v)
	}
	chargeFirst(api.Charge{Spend: api.Spend{Tokens: 79, Micros: 400}})
	d.Restart()
	chargeSecond(api.Charge{Spend: api.Spend{Tokens: 10, Micros: 600}})
	for name, charge := range map[string]func(api.Charge) api.Verdict{"first": chargeFirst, "second": chargeSecond} {
		if v := charge(api.Charge{Ask: true}); v.Limit != "usd_per_day" || v.Used != 1000 || v.Most != 1000 || v.Wait <= 0 {
			t.Errorf("%s run: %+v, want usd_per_day", name, v)
		}
	}
	chargeFirst(api.Charge{Spend: api.Spend{Tokens: 1}})
	if v := chargeFirst(api.Charge{Ask: true}); v.Limit != "tokens_per_run" || v.Used != 80 {
		t.Errorf("the first run's own: %+v", v)
	}
	infos, err := d.Client.List(t.Context(), "my-agent")
	if err != nil || len(infos) != 1 {
		t.Fatal(infos, err)
	}
	// The one request was counted in memory, and the daemon has ended since.
	if diff := cmp.Diff(api.Spend{Requests: 1, Tokens: 90, Micros: 1000}, infos[0].Today); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestChargesAtOnce(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "ANTHROPIC_API_KEY", realKey)
	_, charge := limited(t, d, "run-1", api.Limits{RequestsPerMinute: 20})
	var wg sync.WaitGroup
	var mu sync.Mutex
	passed := 0
	for range 50 {
		wg.Go(func() {
			if charge(api.Charge{Ask: true}).Limit == "" {
				mu.Lock()
				passed++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if passed != 20 {
		t.Errorf("%d requests passed, want 20", passed)
	}
}

func TestForeignPlaceholdersAreNotCharged(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "ANTHROPIC_API_KEY", realKey)
	r, _ := limited(t, d, "run-1", api.Limits{})
	if _, err := r.Charge(t.Context(), api.Charge{Placeholder: "another", Ask: true}); err == nil {
		t.Error("a charge of nothing was taken")
	}
}
