package budget

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/account"
	"github.com/superserve/superserve/secretd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// book is an account of which the test sees all.
type book struct {
	mu     sync.Mutex
	a      account.Account
	limits api.Limits
	fail   error
}

func (b *book) charge(_ context.Context, c api.Charge) (api.Verdict, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return api.Verdict{}, b.fail
	}
	if c.Ask {
		return b.a.Ask("r", b.limits, time.Now()), nil
	}
	b.a.Add("r", c.Spend, time.Now())
	return api.Verdict{}, nil
}

func (b *book) used() api.Spend {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.a.Used(time.Now())
}

func guarded(t *testing.T, l api.Limits, own map[string]api.Price) (*Guard, *book, *[]string) {
	t.Helper()
	b, notes := &book{limits: l}, &[]string{}
	e := api.Entry{Name: "KEY", Placeholder: "p", Limits: l, Binding: api.Binding{Hosts: []api.Pattern{{Host: "api.openai.com"}}}}
	g := New(Config{
		Entries: []api.Entry{e, {Name: "OTHER"}}, Charge: b.charge, Prices: own, Audit: audit.NewWriter(io.Discard),
		Notice: func(_, text string) { *notes = append(*notes, text) },
	})
	return g, b, notes
}

var plan = &swap.Plan{Secrets: []swap.Used{{Name: "KEY"}, {Name: "KEY"}, {Name: "OTHER"}}}

func post(target string) Request { return Request{Method: "POST", Target: target} }

func TestGuard(t *testing.T) {
	g, b, _ := guarded(t, api.Limits{MicrosPerDay: 1000}, nil)
	m, ref := g.Admit(t.Context(), plan, post("/v1/chat/completions"))
	if ref != nil {
		t.Fatal(ref)
	}
	m.Write([]byte(chatJSON))
	m.Done(500, 200)
	m.Done(500, 200)
	// 40·2.5 + 60·1.25 + 7·10
	if _, ref = g.Admit(t.Context(), plan, post("/x")); ref != nil || b.used() != (api.Spend{Requests: 2, Tokens: 107, Micros: 245}) {
		t.Fatalf("%v, used %+v", ref, b.used())
	}
	for range 8 {
		m, ref := g.Admit(t.Context(), plan, post("/v1/messages"))
		if ref != nil {
			if ref.Status != 429 || ref.Reason != ReasonExceeded || !strings.Contains(ref.Detail, "0.00 USD a day") || !strings.Contains(ref.Advice, "usd_per_day") {
				t.Errorf("%+v", ref)
			}
			return
		}
		m.Write([]byte(chatJSON))
		m.Done(500, 200)
	}
	t.Errorf("the limit was not kept: %+v", b.used())
}

func TestGuardFailsClosed(t *testing.T) {
	g, b, notes := guarded(t, api.Limits{MicrosPerRun: 1 << 40}, nil)
	for _, path := range []string{"batches/?x=y", "%62atches", "batches;a", "batches//.", "x/../batches", "batches%2F", "batches%3b"} {
		if _, ref := g.Admit(t.Context(), plan, post("/v1/messages/"+path)); ref == nil || ref.Reason != ReasonUncountable {
			t.Errorf("a batch at %s: %+v", path, ref)
		}
	}
	m, _ := g.Admit(t.Context(), plan, post("/v1/responses"))
	m.Write([]byte(`{"model":"next-years","usage":{"input_tokens":10,"output_tokens":1}}`))
	b.mu.Lock()
	b.fail = errors.New("away")
	b.mu.Unlock()
	m.Done(0, 200)
	if _, ref := g.Admit(t.Context(), plan, post("/v1/responses")); ref == nil || ref.Status != 503 || ref.Reason != ReasonUnavailable {
		t.Errorf("without an account: %+v", ref)
	}
	b.mu.Lock()
	b.fail = nil
	b.mu.Unlock()
	if _, ref := g.Admit(t.Context(), plan, post("/v1/responses")); ref != nil || b.used().Micros != 10*30+180 {
		t.Errorf("%v; what was owed: %+v", ref, b.used())
	}
	if len(*notes) != 1 || !strings.Contains((*notes)[0], `"next-years" has no price`) {
		t.Errorf("notes %q", *notes)
	}
	g.Close(t.Context())
}

func TestGuardOfNothing(t *testing.T) {
	if g := New(Config{Entries: []api.Entry{{Name: "A", Binding: api.Binding{Hosts: []api.Pattern{{Host: "api.example.com"}}}}}}); g != nil {
		t.Error("a run without limits has a guard")
	}
	var g *Guard
	m, ref := g.Admit(t.Context(), plan, Request{})
	m.Write(nil)
	m.Done(0, 0)
	g.Close(t.Context())
	if ref != nil || m != nil || m.Over() {
		t.Errorf("%v, %v", m, ref)
	}
}

func TestPrices(t *testing.T) {
	p := NewPrices(map[string]api.Price{"mine": {Input: 1, Output: 2}, "gpt-5": {Input: 9, Output: 9}})
	for _, tt := range []struct {
		u     Usage
		want  int64
		known bool
	}{
		{Usage{Model: "claude-sonnet-4-5-20250929", Input: 10, Output: 20, CacheRead: 40, CacheWrite: 30, CacheWrite1h: 10}, 30 + 300 + 12 + 75 + 60, true},
		{Usage{Model: "claude-sonnet-4-5", Input: 300_000, Output: 10}, 300_000*6 + 225, true},
		{Usage{Model: "gpt-4o-2024-08-06", Output: 1}, 10, true},
		{Usage{Model: "claude-3-7-sonnet-latest", Output: 1}, 15, true},
		{Usage{Model: "gpt-5-nano", Input: 1}, 1, true},
		{Usage{Model: "mine", Input: 3, Output: 1, CacheRead: 1, CacheWrite: 1}, 7, true},
		{Usage{Model: "gpt-5", Input: 1}, 9, true},
		{Usage{Model: "gpt-5-future", Input: 1}, 30, false},
		{Usage{Model: "", Output: 1}, 180, false},
	} {
		if got, known := p.Cost(tt.u); got != tt.want || known != tt.known {
			t.Errorf("%+v: got %d, %v; want %d, %v", tt.u, got, known, tt.want, tt.known)
		}
	}
	seen := map[string]bool{}
	for _, line := range prices() {
		if seen[line.model] || line.Input <= 0 || line.Input > dearest.Input || line.Output > dearest.Output || line.CacheRead > dearest.CacheRead || line.CacheWrite > dearest.CacheWrite {
			t.Errorf("%s: %+v", line.model, line)
		}
		seen[line.model] = true
	}
}
