package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/budget"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/lease"
)

// tellTimeout is how long a proxy that ends tells secretd of what was spent. Its supervisor kills it after two seconds.
const tellTimeout = time.Second

// openBudget makes the guard of the run's limits; nil when nothing is to be bounded or counted.
func (p *proxyRun) openBudget(recorder audit.Recorder) *budget.Guard {
	p.budget = budget.New(budget.Config{
		Entries: p.grants.entries(), Charge: p.grants.charger(), Prices: p.handoff.Prices, Audit: recorder,
		Notice: func(secret, text string) {
			p.notices.tell(sandbox.Notice{Kind: "budget", Text: secret + ": " + text, Secret: secret})
		},
	})
	return p.budget
}

// closeBudget waits for what is still to be told.
func (p *proxyRun) closeBudget() {
	ctx, cancel := context.WithTimeout(context.Background(), tellTimeout)
	defer cancel()
	p.budget.Close(ctx)
}

// charger tells the lease that a placeholder is of.
func (g grants) charger() func(context.Context, api.Charge) (api.Verdict, error) {
	of := map[string]*lease.Lease{}
	for _, l := range g {
		for _, e := range l.Entries() {
			of[e.Placeholder] = l
		}
	}
	return func(ctx context.Context, c api.Charge) (api.Verdict, error) {
		l, ok := of[c.Placeholder]
		if !ok {
			return api.Verdict{}, api.ErrUnknown
		}
		return l.Charge(ctx, c)
	}
}

// credentialReasons are the sentences of what is refused with a credential; the agent is told more.
var credentialReasons = map[string]string{
	budget.ReasonExceeded:    "a limit of superserve.yaml is reached",
	budget.ReasonUnavailable: "the budget cannot be asked",
	swap.ReasonUnbound:       "the secret is bound to no host",
	budget.ReasonUncountable: "what a batch costs is not counted, and the secret has a limit of tokens or money",
}

// dollars prints millionths of a US dollar: cents, and more of what is less than one.
func dollars(micros int64) string {
	if micros > 0 && micros < 10_000 {
		return fmt.Sprintf("$%.4f", float64(micros)/1e6)
	}
	return fmt.Sprintf("$%.2f", float64(micros)/1e6)
}

// tokens prints a number of tokens in the largest unit of 1000 that leaves at least 1.
func tokens(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprint(n)
	case n < 1_000_000:
		return fmt.Sprintf("%.1fk", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1fM", float64(n)/1e6)
}

// spend prints what was used, "-" for nothing.
func spend(s api.Spend) string {
	if s == (api.Spend{}) {
		return "-"
	}
	text := fmt.Sprintf("%d requests", s.Requests)
	if s.Tokens > 0 {
		text += fmt.Sprintf(", %s tokens, %s", tokens(s.Tokens), dollars(s.Micros))
	}
	return text
}
