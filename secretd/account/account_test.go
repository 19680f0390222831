package account

import (
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/api"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestAsk(t *testing.T) {
	for _, tt := range []struct {
		name   string
		limits api.Limits
		spent  api.Spend
		other  api.Spend // of another run, the same day
		want   api.Verdict
	}{
		{"has no limits by itself", api.Limits{}, api.Spend{Tokens: 1 << 40, Micros: 1 << 40}, api.Spend{}, api.Verdict{}},
		{"lets pass what is below", api.Limits{TokensPerRun: 101, TokensPerDay: 101, MicrosPerRun: 6, MicrosPerDay: 6}, api.Spend{Tokens: 100, Micros: 5}, api.Spend{}, api.Verdict{}},
		{"stops at a run's tokens", api.Limits{TokensPerRun: 100}, api.Spend{Tokens: 100}, api.Spend{}, api.Verdict{Limit: "tokens_per_run", Used: 100, Most: 100}},
		{"stops at a run's money", api.Limits{MicrosPerRun: 5}, api.Spend{Micros: 6}, api.Spend{}, api.Verdict{Limit: "usd_per_run", Used: 6, Most: 5}},
		{"keeps runs apart", api.Limits{MicrosPerRun: 5, TokensPerRun: 5}, api.Spend{}, api.Spend{Tokens: 50, Micros: 50}, api.Verdict{}},
		{"stops at the day's tokens of all runs", api.Limits{TokensPerDay: 100}, api.Spend{Tokens: 40}, api.Spend{Tokens: 60}, api.Verdict{Limit: "tokens_per_day", Used: 100, Most: 100, Wait: 12 * time.Hour}},
		{"stops at the day's money of all runs", api.Limits{MicrosPerDay: 9}, api.Spend{Micros: 4}, api.Spend{Micros: 5}, api.Verdict{Limit: "usd_per_day", Used: 9, Most: 9, Wait: 12 * time.Hour}},
		{"takes no negative amounts", api.Limits{TokensPerDay: 100}, api.Spend{Tokens: -500, Micros: -1}, api.Spend{Tokens: 100}, api.Verdict{Limit: "tokens_per_day", Used: 100, Most: 100, Wait: 12 * time.Hour}},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			var a Account
			a.Add("this", tt.spent, noon)
			a.Add("other", tt.other, noon)
			if got := a.Ask("this", tt.limits, noon); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestRequestsOfAMinute(t *testing.T) {
	var a Account
	l := api.Limits{RequestsPerMinute: 3}
	for i, at := range []time.Duration{0, 10 * time.Second, 20 * time.Second} {
		if v := a.Ask("r", l, noon.Add(at)); v.Limit != "" {
			t.Fatalf("request %d: %+v", i, v)
		}
	}
	want := api.Verdict{Limit: "requests_per_minute", Used: 3, Most: 3, Wait: 30 * time.Second}
	if v := a.Ask("another", l, noon.Add(30*time.Second)); v != want {
		t.Errorf("got %+v, want %+v", v, want)
	}
	if v := a.Ask("r", l, noon.Add(60*time.Second)); v.Limit != "" {
		t.Errorf("a minute later: %+v", v)
	}
	if got := a.Used(noon); got.Requests != 4 {
		t.Errorf("%d requests, want 4", got.Requests)
	}
}

func TestANewDayBegins(t *testing.T) {
	var a Account
	a.Add("r", api.Spend{Tokens: 100}, noon)
	tomorrow := noon.Add(24 * time.Hour)
	if v := a.Ask("r", api.Limits{TokensPerDay: 100}, tomorrow); v.Limit != "" {
		t.Errorf("the day's limit: %+v", v)
	}
	if v := a.Ask("r", api.Limits{TokensPerRun: 100}, tomorrow); v.Limit != "tokens_per_run" {
		t.Errorf("the run's limit: %+v", v)
	}
	a.End("r")
	if v := a.Ask("r", api.Limits{TokensPerRun: 100}, tomorrow); v.Limit != "" {
		t.Errorf("after its end: %+v", v)
	}
}

func TestSumsStop(t *testing.T) {
	var a Account
	const most = 1<<63 - 1
	a.Add("r", api.Spend{Tokens: most}, noon)
	a.Add("r", api.Spend{Tokens: most}, noon)
	if got := a.Used(noon).Tokens; got != most {
		t.Errorf("got %d", got)
	}
}
