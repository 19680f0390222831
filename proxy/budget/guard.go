package budget

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

// The reasons of refusals, beside those of package swap.
const (
	// ReasonExceeded: a limit of superserve.yaml is reached.
	ReasonExceeded = "budget_exceeded"
	// ReasonUnavailable: the account cannot be asked.
	ReasonUnavailable = "budget_unavailable"
	// ReasonUncountable: what the request starts cannot be counted.
	ReasonUncountable = "budget_uncountable"
)

// Config is what a Guard works with.
type Config struct {
	Entries []api.Entry
	Charge  func(ctx context.Context, c api.Charge) (api.Verdict, error) // lease.Lease.Charge
	Prices  map[string]api.Price                                         // over the table's, by model
	Audit   audit.Recorder                                               // takes an event an answer that cost something
	Notice  func(secret, text string)                                    // says once what the user should know; may be nil
}

// Guard is the budget of one run. It is safe for concurrent use. A nil Guard bounds nothing.
type Guard struct {
	cfg    Config
	prices *Prices
	watch  map[string]*watched // by name of the secret
	noted  sync.Map            // models without a price
	work   sync.WaitGroup      // what is being told
}

// watched is a secret that has limits, or whose answers are counted for the audit log.
type watched struct {
	name, placeholder string
	limits            api.Limits
	counts            bool // answers are looked into

	mu   sync.Mutex
	tail chan struct{} // closed when all that was spent before is told; nil at first
	owed api.Spend     // what could not be told
}

// New returns the guard of a run's secrets, nil when there is nothing to guard.
func New(cfg Config) *Guard {
	g := &Guard{cfg: cfg, prices: NewPrices(cfg.Prices), watch: make(map[string]*watched)}
	for _, e := range cfg.Entries {
		counts := e.Limits.Spending() || slices.ContainsFunc(e.Binding.Hosts, isModelHost)
		if !e.Exposed && (counts || e.Limits != api.Limits{}) {
			g.watch[e.Name] = &watched{name: e.Name, placeholder: e.Placeholder, limits: e.Limits, counts: counts}
		}
	}
	if len(g.watch) == 0 {
		return nil
	}
	return g
}

func isModelHost(p api.Pattern) bool {
	return p.Host == "api.anthropic.com" || p.Host == "api.openai.com"
}

// Request is what a Guard is told of a request.
type Request struct {
	Method, Target string // Target may have a query
	Event          audit.Event
}

// Admit asks for a request with the plan's secrets. The meter, which is nil when the answer need not be looked at, has to
// be Done whatever becomes of the request.
func (g *Guard) Admit(ctx context.Context, plan *swap.Plan, r Request) (*Meter, *swap.Refusal) {
	if g == nil || plan == nil {
		return nil, nil
	}
	var m *Meter
	for i := range plan.Secrets {
		w := g.watch[plan.Secrets[i].Name]
		if w == nil || m != nil && slices.Contains(m.watched, w) {
			continue
		}
		if w.limits != (api.Limits{}) {
			if ref := g.ask(ctx, w, r); ref != nil {
				return nil, ref
			}
		}
		if !w.counts {
			continue
		}
		if m == nil {
			m = g.meter(r)
		}
		m.watched = append(m.watched, w)
	}
	return m, nil
}

// batches are where work is ordered whose answers come later and elsewhere.
var batches = []string{"/batches"}

// ask asks the account of one secret, after what it was last used for is told.
func (g *Guard) ask(ctx context.Context, w *watched, r Request) *swap.Refusal {
	if w.limits.Spending() && r.Method == "POST" && endsIn(r.Target, batches) {
		return &swap.Refusal{
			Status: 403, Reason: ReasonUncountable, Secret: w.name, Detail: "what a batch costs is not counted, and the secret has a limit of tokens or money",
			Advice: "send the requests one by one, or take the limits out of superserve.yaml",
		}
	}
	v, err := g.settled(ctx, w)
	if err != nil {
		return &swap.Refusal{
			Status: 503, Reason: ReasonUnavailable, Secret: w.name, Detail: "the budget cannot be asked: " + err.Error(),
			Advice: "see whether secretd runs",
		}
	}
	if v.Limit == "" {
		return nil
	}
	return &swap.Refusal{Status: 429, Reason: ReasonExceeded, Secret: w.name, Detail: explain(v), Advice: advise(v)}
}

// settled waits for what was spent to be told, tells what could not be, and asks.
func (g *Guard) settled(ctx context.Context, w *watched) (api.Verdict, error) {
	w.mu.Lock()
	tail := w.tail
	w.mu.Unlock()
	if tail != nil {
		select {
		case <-tail:
		case <-ctx.Done():
			return api.Verdict{}, ctx.Err()
		}
	}
	w.mu.Lock()
	owed := w.owed
	w.owed = api.Spend{}
	w.mu.Unlock()
	if owed != (api.Spend{}) {
		if err := g.tell(ctx, w, owed); err != nil {
			return api.Verdict{}, err
		}
	}
	return g.cfg.Charge(ctx, api.Charge{Placeholder: w.placeholder, Ask: true})
}

// tell adds to the account. What cannot be told is owed.
func (g *Guard) tell(ctx context.Context, w *watched, s api.Spend) error {
	_, err := g.cfg.Charge(ctx, api.Charge{Placeholder: w.placeholder, Spend: s})
	if err != nil {
		w.mu.Lock()
		w.owed = w.owed.Add(s)
		w.mu.Unlock()
	}
	return err
}

// spend tells of an answer, beside the relaying; the next request with the secret waits for it.
func (g *Guard) spend(w *watched, s api.Spend, record func()) {
	told := make(chan struct{})
	w.mu.Lock()
	before := w.tail
	w.tail = told
	w.mu.Unlock()
	g.work.Go(func() {
		defer close(told)
		record()
		if before != nil {
			<-before
		}
		g.tell(context.Background(), w, s) //nolint:errcheck // it is owed then
	})
}

// Close waits until all that was spent is told, as long as ctx lasts.
func (g *Guard) Close(ctx context.Context) {
	if g == nil {
		return
	}
	told := make(chan struct{})
	go func() {
		g.work.Wait()
		close(told)
	}()
	select {
	case <-told:
	case <-ctx.Done():
	}
}

// explain says which limit is reached.
func explain(v api.Verdict) string {
	what, per, _ := strings.Cut(v.Limit, "_per_")
	if what == "usd" {
		return fmt.Sprintf("the limit of %s USD a %s is reached: %s USD are used", dollars(v.Most), per, dollars(v.Used))
	}
	return fmt.Sprintf("the limit of %d %s a %s is reached", v.Most, what, per)
}

func dollars(micros int64) string { return fmt.Sprintf("%.2f", float64(micros)/1e6) }

func advise(v api.Verdict) string {
	if v.Wait <= 0 {
		return "start another run, or raise '" + v.Limit + "' under limits in superserve.yaml"
	}
	return fmt.Sprintf("wait %v, or raise '%s' under limits in superserve.yaml", (v.Wait + time.Second - 1).Truncate(time.Second), v.Limit)
}

// Meter counts what one answer costs. Write and Done are called from one goroutine at a time; Over from any.
type Meter struct {
	guard   *Guard
	watched []*watched
	request Request
	reader  *reader
	billed  bool
	ended   bool
	over    atomic.Bool
	told    Usage // of a WebSocket, what was spent so far
}

// generating are the paths whose POST costs, also where the answer does not say what.
var generating = []string{"/messages", "/completions", "/responses", "/embeddings", "/generations", "/edits"}

// endsIn reports whether the path of a target, as any server may read it, ends in one of the endings.
func endsIn(target string, endings []string) bool {
	target, _, _ = strings.Cut(target, "?")
	if plain, err := url.PathUnescape(target); err == nil {
		target = plain
	}
	target, _, _ = strings.Cut(target, ";")
	target = path.Clean("/" + target)
	return slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(target, e) })
}

func (g *Guard) meter(r Request) *Meter {
	return &Meter{guard: g, request: r, reader: newReader(false), billed: r.Method == "POST" && endsIn(r.Target, generating)}
}

// Write takes the next piece of the answer, without its codings. A nil Meter takes nothing.
func (m *Meter) Write(p []byte) {
	if m != nil && !m.ended {
		m.reader.write(p)
	}
}

// Socket says that the answer is a WebSocket: what is written from now on are messages, each answer among which is
// counted when it is whole.
func (m *Meter) Socket() {
	if m != nil {
		m.reader = newReader(true)
		m.reader.each = m.settle
	}
}

// Over reports whether a limit was reached while a WebSocket was open.
func (m *Meter) Over() bool { return m != nil && m.over.Load() }

// Done counts the answer, once. sent is the size of the request in bytes, status that of the answer, 0 when there was
// none: then the client has left, and what it asked for is being made all the same.
func (m *Meter) Done(sent int64, status int) {
	if m == nil || m.ended {
		return
	}
	m.ended = true
	u := m.reader.usage(sent, m.billed && (status == 0 || status/100 == 2))
	m.charge(u.less(m.told))
}

// settle counts what came since the last time over a WebSocket, and asks whether there may be more.
func (m *Meter) settle() {
	u := m.reader.usage(0, false)
	m.charge(u.less(m.told))
	m.told = u
	for _, w := range m.watched {
		if w.limits == (api.Limits{}) {
			continue
		}
		m.guard.work.Go(func() {
			if v, err := m.guard.settled(context.Background(), w); err != nil || v.Limit != "" {
				m.over.Store(true)
			}
		})
	}
}

// charge records what was used, and tells the accounts of the secrets that have limits.
func (m *Meter) charge(u Usage) {
	if u.Tokens() <= 0 {
		return
	}
	g := m.guard
	micros, known := g.prices.Cost(u)
	for _, w := range m.watched {
		e := m.request.Event
		e.Kind, e.Verdict, e.Secret, e.Model, e.Tokens, e.Micros = audit.Usage, audit.Allowed, w.name, u.Model, u.Tokens(), micros
		e.Priced = known
		// Beside the relaying: the answer has been given, and the account below is what binds.
		record := func() { g.cfg.Audit.Record(e) } //nolint:errcheck // as above
		if w.limits == (api.Limits{}) {
			g.work.Go(record)
			continue
		}
		if !known && w.limits.MicrosPerDay|w.limits.MicrosPerRun != 0 {
			g.noteModel(w.name, u.Model)
		}
		g.spend(w, api.Spend{Tokens: u.Tokens(), Micros: micros}, record)
	}
}

// maxNoted is how many models without a price are told of: their names are the upstream's.
const maxNoted = 16

func (g *Guard) noteModel(secret, model string) {
	if g.cfg.Notice == nil {
		return
	}
	n := 0
	g.noted.Range(func(any, any) bool { n++; return n < maxNoted })
	if n >= maxNoted {
		return
	}
	if _, before := g.noted.LoadOrStore(model, true); !before {
		g.cfg.Notice(secret, fmt.Sprintf("%q has no price and is counted as the dearest model: give it one under prices in superserve.yaml", model))
	}
}
