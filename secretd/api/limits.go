package api

import (
	"fmt"
	"math"
	"time"
)

// MaxPerMinute is the largest limit of requests a minute: each request of the last
// minute is remembered.
const MaxPerMinute = 100_000

// Limits bound what the requests with one secret may use. A zero field is no limit.
// Micros are millionths of a US dollar. A day is one of UTC, common to all runs of
// the agent.
type Limits struct {
	RequestsPerMinute int   `json:"requests_per_minute,omitempty"`
	TokensPerRun      int64 `json:"tokens_per_run,omitempty"`
	TokensPerDay      int64 `json:"tokens_per_day,omitempty"`
	MicrosPerRun      int64 `json:"micros_per_run,omitempty"`
	MicrosPerDay      int64 `json:"micros_per_day,omitempty"`
}

// Spending reports whether answers have to be looked into for what they cost.
func (l Limits) Spending() bool {
	return l.TokensPerRun|l.TokensPerDay|l.MicrosPerRun|l.MicrosPerDay != 0
}

// Check refuses limits that cannot be kept. The error wraps ErrInvalid.
func (l Limits) Check() error {
	if l.RequestsPerMinute < 0 || l.RequestsPerMinute > MaxPerMinute || min(l.TokensPerRun, l.TokensPerDay, l.MicrosPerRun, l.MicrosPerDay) < 0 {
		return fmt.Errorf("limits: %w", ErrInvalid)
	}
	return nil
}

// Price is what a model's tokens cost, in US dollars a million.
type Price struct {
	Input      float64 `json:"input"`
	Output     float64 `json:"output"`
	CacheRead  float64 `json:"cache_read,omitempty"`
	CacheWrite float64 `json:"cache_write,omitempty"`
}

// Spend is an amount of use.
type Spend struct {
	Requests int64 `json:"requests,omitempty"`
	Tokens   int64 `json:"tokens,omitempty"`
	Micros   int64 `json:"micros,omitempty"`
}

// Add returns the sum, which stops at the largest number instead of turning over.
func (s Spend) Add(o Spend) Spend {
	return Spend{add(s.Requests, o.Requests), add(s.Tokens, o.Tokens), add(s.Micros, o.Micros)}
}

func add(a, b int64) int64 {
	if b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

// Charge is what the proxy says of the use of one secret. Ask asks for one more
// request; without it Spend is what an answer has used, which is never refused.
type Charge struct {
	Placeholder string `json:"placeholder"`
	Ask         bool   `json:"ask,omitempty"`
	Spend       Spend  `json:"spend,omitzero"`
}

// Verdict answers a Charge. Limit is the name of the limit that is reached, as
// superserve.yaml has it ("usd_per_day"), or "" for a request that may go; Used and
// Most are in its unit, micros for US dollars. Wait is how long until there is room
// again, 0 for never in this run.
type Verdict struct {
	Limit string        `json:"limit,omitempty"`
	Used  int64         `json:"used,omitempty"`
	Most  int64         `json:"most,omitempty"`
	Wait  time.Duration `json:"wait,omitempty"`
}
