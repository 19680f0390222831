package agent

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/superserve/superserve/secretd/api"
)

// maxPrices is the largest number of prices of one agent.
const maxPrices = 256

// readLimits keeps a mapping of secrets to limits, for finishLimits.
func (m *Manifest) readLimits(n ast.Node) (err error) {
	m.unlimited, err = asMapping(n, "'limits'")
	return err
}

// finishLimits gives the secrets their limits, wherever `limits` stood: by now the secrets are read.
func (m *Manifest) finishLimits() error {
	if m.unlimited == nil {
		return nil
	}
	pairs := m.unlimited
	m.unlimited = nil
	seen := map[string]bool{}
	for _, pair := range pairs.Values {
		name, err := keyOf(pair)
		if err != nil {
			return err
		}
		if strings.HasPrefix(name, "x-") {
			continue
		}
		i := slices.IndexFunc(m.Secrets, func(s Secret) bool { return s.Name == name })
		switch {
		case i < 0:
			return faultf(pair.Key, "limits of %s, which is none of 'secrets'", strconv.Quote(name))
		case seen[name]:
			return faultf(pair.Key, "'%s' stands twice", name)
		case m.Secrets[i].Expose:
			return faultf(pair.Key, "%s has 'expose': no limit can be kept of what the agent itself holds", name)
		}
		seen[name] = true
		if err := readLimit(pair.Value, &m.Secrets[i].Limits); err != nil {
			return err
		}
	}
	return nil
}

func readLimit(n ast.Node, l *api.Limits) error {
	fields, err := asMapping(n, "a limit")
	if err != nil {
		return err
	}
	err = readFields(fields, "limits", []field{
		{"requests_per_minute", scalar(&l.RequestsPerMinute, "requests_per_minute", parseRate)},
		{"tokens_per_run", scalar(&l.TokensPerRun, "tokens_per_run", parseTokens)},
		{"tokens_per_day", scalar(&l.TokensPerDay, "tokens_per_day", parseTokens)},
		{"usd_per_run", scalar(&l.MicrosPerRun, "usd_per_run", parseDollars)},
		{"usd_per_day", scalar(&l.MicrosPerDay, "usd_per_day", parseDollars)},
	})
	if err == nil && *l == (api.Limits{}) {
		return faultf(n, "a limit without a number")
	}
	return err
}

func parseRate(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n <= 0 || n > api.MaxPerMinute {
		return 0, fmt.Errorf("give a number of requests up to %d", api.MaxPerMinute)
	}
	return n, nil
}

// parseTokens reads a number that may end in k (thousands) or M (millions).
func parseTokens(s string) (int64, error) {
	factor := int64(1)
	if rest, ok := strings.CutSuffix(s, "k"); ok {
		s, factor = rest, 1000
	} else if rest, ok := strings.CutSuffix(s, "M"); ok {
		s, factor = rest, 1_000_000
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64/factor {
		return 0, errors.New("give a number of tokens, as in 500k or 2M")
	}
	return n * factor, nil
}

// parseDollars reads US dollars into micros.
func parseDollars(s string) (int64, error) {
	v, err := parsePrice(s)
	if err != nil || v < 1e-6 || v > 1e9 {
		return 0, errors.New("give US dollars, as in 2.50")
	}
	return int64(math.Round(v * 1e6)), nil
}

func parsePrice(s string) (float64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !(v >= 0) || v > 1e9 || strings.ContainsAny(s, "xXpP_") {
		return 0, errors.New("give US dollars for a million tokens, as in 2.50")
	}
	return v, nil
}

// readPrices reads what models cost, over what superserve knows.
func (m *Manifest) readPrices(n ast.Node) error {
	pairs, err := asMapping(n, "'prices'")
	if err != nil {
		return err
	}
	if len(pairs.Values) > maxPrices {
		return faultf(n, "more than %d prices", maxPrices)
	}
	m.Prices = make(map[string]api.Price, len(pairs.Values))
	for _, pair := range pairs.Values {
		model, err := keyOf(pair)
		if err != nil {
			return err
		}
		if _, twice := m.Prices[model]; twice || len(model) > 96 {
			return faultf(pair.Key, "'%s' stands twice or is no model's name", model)
		}
		fields, err := asMapping(pair.Value, "a price")
		if err != nil {
			return err
		}
		var p api.Price
		given := map[string]bool{}
		for _, f := range fields.Values {
			if key, err := keyOf(f); err == nil {
				given[key] = true
			}
		}
		err = readFields(fields, "a price", []field{
			{"input", scalar(&p.Input, "input", parsePrice)},
			{"output", scalar(&p.Output, "output", parsePrice)},
			{"cache_read", scalar(&p.CacheRead, "cache_read", parsePrice)},
			{"cache_write", scalar(&p.CacheWrite, "cache_write", parsePrice)},
		})
		if err != nil {
			return err
		}
		if !given["input"] || !given["output"] {
			return faultf(pair.Value, "a price has 'input' and 'output'")
		}
		m.Prices[model] = p
	}
	return nil
}
