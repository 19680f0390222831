package budget

import (
	"math"
	"strings"

	"github.com/superserve/superserve/secretd/api"
)

// price is a line of the table: US dollars a million tokens, of the standard tier. Above a prompt of long tokens a model
// costs more: input, cache and all, by the factor more, output by moreOut.
type price struct {
	model string
	api.Price
	long          int64
	more, moreOut float64
}

// prices are those of Anthropic's and OpenAI's models, compared with the providers' pages on 2026-11-23. A model that is
// priced like an older one of its family has a line of its own all the same: a name is matched whole, but for the date
// behind it.
func prices() []price {
	p := func(model string, in, out, read, write float64) price {
		return price{model: model, Price: api.Price{Input: in, Output: out, CacheRead: read, CacheWrite: write}}
	}
	long := func(p price, tokens int64, more, moreOut float64) price {
		p.long, p.more, p.moreOut = tokens, more, moreOut
		return p
	}
	return []price{
		p("claude-fable-5-1", 10, 50, 0.25, 12.5), p("claude-mythos-5-1", 10, 50, 0.25, 12.5),
		p("claude-fable-5", 10, 50, 1, 12.5), p("claude-mythos-5", 10, 50, 1, 12.5),
		p("claude-opus-5-5", 4, 20, 0.2, 5), p("claude-opus-5", 5, 25, 0.5, 6.25),
		p("claude-opus-4-8", 5, 25, 0.5, 6.25), p("claude-opus-4-7", 5, 25, 0.5, 6.25), p("claude-opus-4-6", 5, 25, 0.5, 6.25), p("claude-opus-4-5", 5, 25, 0.5, 6.25),
		p("claude-opus-4-1", 15, 75, 1.5, 18.75), p("claude-opus-4-0", 15, 75, 1.5, 18.75), p("claude-opus-4", 15, 75, 1.5, 18.75), p("claude-3-opus", 15, 75, 1.5, 18.75),
		p("claude-sonnet-5-5", 2, 10, 0.1, 2.5), p("claude-sonnet-5", 2, 10, 0.2, 2.5),
		p("claude-sonnet-4-6", 3, 15, 0.3, 3.75), long(p("claude-sonnet-4-5", 3, 15, 0.3, 3.75), 200_000, 2, 1.5),
		long(p("claude-sonnet-4-0", 3, 15, 0.3, 3.75), 200_000, 2, 1.5), long(p("claude-sonnet-4", 3, 15, 0.3, 3.75), 200_000, 2, 1.5),
		p("claude-3-7-sonnet", 3, 15, 0.3, 3.75), p("claude-3-5-sonnet", 3, 15, 0.3, 3.75),
		long(p("claude-haiku-5-5", 0.1, 0.5, 0.01, 0.125), 100_000, 5, 5),
		p("claude-haiku-4-5", 1, 5, 0.1, 1.25), p("claude-3-5-haiku", 0.8, 4, 0.08, 1), p("claude-3-haiku", 0.25, 1.25, 0.03, 0.3),

		long(p("gpt-5.6-sol", 5, 30, 0.5, 6.25), 272_000, 2, 1.5), long(p("gpt-5.6-terra", 2, 12, 0.2, 2.5), 272_000, 2, 1.5), long(p("gpt-5.6-luna", 0.2, 1.2, 0.02, 0.25), 200_000, 2, 1.5),
		p("gpt-5.5-pro", 30, 180, 30, 30), long(p("gpt-5.5", 5, 30, 0.5, 5), 272_000, 2, 1.5),
		p("gpt-5.4-pro", 30, 180, 30, 30), long(p("gpt-5.4", 2.5, 15, 0.25, 2.5), 272_000, 2, 1.5), p("gpt-5.4-mini", 0.75, 4.5, 0.075, 0.75), p("gpt-5.4-nano", 0.2, 1.25, 0.02, 0.2),
		p("gpt-5.3-codex", 1.75, 14, 0.175, 1.75), p("gpt-5.2-codex", 1.75, 14, 0.175, 1.75), p("gpt-5.2", 1.75, 14, 0.175, 1.75),
		p("gpt-5.1", 1.25, 10, 0.125, 1.25), p("gpt-5.1-codex", 1.25, 10, 0.125, 1.25),
		p("gpt-5", 1.25, 10, 0.125, 1.25), p("gpt-5-codex", 1.25, 10, 0.125, 1.25), p("gpt-5-mini", 0.25, 2, 0.025, 0.25), p("gpt-5-nano", 0.05, 0.4, 0.005, 0.05), p("gpt-5-pro", 15, 120, 15, 15),
		p("gpt-4.1", 2, 8, 0.5, 2), p("gpt-4.1-mini", 0.4, 1.6, 0.1, 0.4), p("gpt-4.1-nano", 0.1, 0.4, 0.025, 0.1),
		p("gpt-4o", 2.5, 10, 1.25, 2.5), p("gpt-4o-mini", 0.15, 0.6, 0.075, 0.15),
		p("o1", 15, 60, 7.5, 15), p("o3", 2, 8, 0.5, 2), p("o3-mini", 1.1, 4.4, 0.55, 1.1), p("o4-mini", 1.1, 4.4, 0.275, 1.1),
		p("text-embedding-3-small", 0.02, 0, 0.02, 0.02), p("text-embedding-3-large", 0.13, 0, 0.13, 0.13),
	}
}

// dearest is what a model without a price is taken for. Higher prices than the table's own have to be said.
var dearest = price{Price: api.Price{Input: 30, Output: 180, CacheRead: 30, CacheWrite: 37.5}}

// Prices turns usage into money. It is immutable and safe for concurrent use.
type Prices struct{ of map[string]price }

// NewPrices returns the table with own put over it: a price by the name of a model, as answers have it.
func NewPrices(own map[string]api.Price) *Prices {
	t := &Prices{make(map[string]price)}
	for _, line := range prices() {
		t.of[line.model] = line
	}
	for model, p := range own {
		if p.CacheRead == 0 {
			p.CacheRead = p.Input
		}
		if p.CacheWrite == 0 {
			p.CacheWrite = p.Input
		}
		t.of[model] = price{model: model, Price: p}
	}
	return t
}

// find returns a model's price, the dearest for a model without one. A name may have a date behind it.
func (t *Prices) find(model string) (price, bool) {
	for _, name := range []string{model, strings.TrimSuffix(model, "-latest"), undated(model)} {
		if p, ok := t.of[name]; ok {
			return p, true
		}
	}
	return dearest, false
}

// undated cuts -20251001 or -2026-03-05 off a model's name.
func undated(model string) string {
	for _, form := range []string{"-00000000", "-0000-00-00"} {
		at := len(model) - len(form)
		if at <= 0 {
			continue
		}
		digits := strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return '0'
			}
			return r
		}, model[at:])
		if digits == form {
			return model[:at]
		}
	}
	return model
}

// Cost returns what u costs, in micros, rounded up, and whether its model has a price: else it is the dearest one's.
func (t *Prices) Cost(u Usage) (micros int64, known bool) {
	p, known := t.find(u.Model)
	in := float64(u.Input)*p.Input + float64(u.CacheRead)*p.CacheRead + float64(u.CacheWrite-u.CacheWrite1h)*p.CacheWrite
	// Kept for an hour, a prompt costs twice the input in place of 1.25 times (Anthropic's prompt caching).
	in += float64(u.CacheWrite1h) * p.CacheWrite * 1.6
	out := float64(u.Output) * p.Output
	if p.long > 0 && u.Input+u.CacheRead+u.CacheWrite > p.long {
		in, out = in*p.more, out*p.moreOut
	}
	// A dollar a million tokens is a micro a token. Near-integers must not be rounded up by a float's last bit.
	cost := math.Ceil(in + out - 1e-6)
	if cost >= math.MaxInt64 {
		return math.MaxInt64, known
	}
	return int64(max(cost, 0)), known
}
