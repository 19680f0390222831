// Package account keeps what the requests with one secret have used, and says when a
// limit is reached: requests in the last minute, tokens and money of a run and of a day.
//
// A request is asked for before it is sent, and what its answer used is added when that
// is known. So a limit of tokens or money is passed by the requests that were under way
// when it was reached, and by no other.
package account

import (
	"time"

	"github.com/superserve/superserve/secretd/api"
)

// Account is the account of one secret of one agent. The exported fields are what
// outlives the process. It is not safe for concurrent use. The zero value is new.
type Account struct {
	Day   string               `json:"day,omitempty"` // of Today, 2006-01-02 in UTC
	Today api.Spend            `json:"today"`
	Runs  map[string]api.Spend `json:"runs,omitempty"` // of runs that have not ended

	recent []time.Time // of the requests of the last minute, oldest first
}

// roll begins a new day.
func (a *Account) roll(now time.Time) {
	if day := now.UTC().Format(time.DateOnly); day != a.Day {
		a.Day, a.Today = day, api.Spend{}
	}
}

// Ask counts one more request of a run, unless a limit is reached.
func (a *Account) Ask(run string, l api.Limits, now time.Time) api.Verdict {
	a.roll(now)
	for len(a.recent) > 0 && now.Sub(a.recent[0]) >= time.Minute {
		a.recent = a.recent[1:]
	}
	this := a.Runs[run]
	midnight := now.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now)
	for _, v := range []api.Verdict{
		{Limit: "tokens_per_run", Used: this.Tokens, Most: l.TokensPerRun},
		{Limit: "usd_per_run", Used: this.Micros, Most: l.MicrosPerRun},
		{Limit: "tokens_per_day", Used: a.Today.Tokens, Most: l.TokensPerDay, Wait: midnight},
		{Limit: "usd_per_day", Used: a.Today.Micros, Most: l.MicrosPerDay, Wait: midnight},
	} {
		if v.Most > 0 && v.Used >= v.Most {
			return v
		}
	}
	if l.RequestsPerMinute > 0 && len(a.recent) >= l.RequestsPerMinute {
		oldest := a.recent[len(a.recent)-l.RequestsPerMinute]
		return api.Verdict{Limit: "requests_per_minute", Used: int64(len(a.recent)), Most: int64(l.RequestsPerMinute), Wait: oldest.Add(time.Minute).Sub(now)}
	}
	if a.recent = append(a.recent, now); len(a.recent) > api.MaxPerMinute {
		a.recent = a.recent[1:]
	}
	a.add(run, api.Spend{Requests: 1})
	return api.Verdict{}
}

// Add counts what an answer has used. Less than nothing counts as nothing.
func (a *Account) Add(run string, s api.Spend, now time.Time) {
	a.roll(now)
	a.add(run, api.Spend{Tokens: max(s.Tokens, 0), Micros: max(s.Micros, 0)})
}

func (a *Account) add(run string, s api.Spend) {
	if a.Runs == nil {
		a.Runs = make(map[string]api.Spend)
	}
	a.Runs[run] = a.Runs[run].Add(s)
	a.Today = a.Today.Add(s)
}

// Follow takes over what outlives no process from an account that a takes the place of.
func (a *Account) Follow(before *Account) { a.recent = before.recent }

// End forgets a run.
func (a *Account) End(run string) { delete(a.Runs, run) }

// Used returns what was used on the day of now.
func (a *Account) Used(now time.Time) api.Spend {
	a.roll(now)
	return a.Today
}
