package secretd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/account"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/store"
)

// spentPrefix begins the keys of accounts. What they say is no secret, so it is not
// sealed; that nobody set it back is the ledger's to notice, as with every record.
const spentPrefix = "spent/"

// accountTries is how often a change of an account is stored while other hosts charge the same account.
const accountTries = 8

// accounts are those of the secrets that were charged since the daemon began.
type accounts struct {
	mu   sync.Mutex
	open map[string]*openAccount
}

type openAccount struct {
	account.Account
	revision uint64 // of the record, 0 when there is none
	unstored bool   // requests were counted since
}

// Charge implements lease.Accountant.
func (g *grant) Charge(ctx context.Context, c api.Charge) (api.Verdict, error) {
	e := g.find(c.Placeholder)
	if e == nil {
		return api.Verdict{}, api.ErrUnknown
	}
	return g.daemon.charge(ctx, g, e, c)
}

// charge asks the account of a secret, or adds to it. An amount is stored before it is
// acknowledged; the count of requests with the next amount, or when the run ends.
func (d *Daemon) charge(ctx context.Context, g *grant, e *granted, c api.Charge) (api.Verdict, error) {
	d.accounts.mu.Lock()
	defer d.accounts.mu.Unlock()
	key := spentPrefix + g.Agent + "/" + e.Name
	a, err := d.openAccount(ctx, key)
	if err != nil {
		return api.Verdict{}, fmt.Errorf("%w: %w", api.ErrUnavailable, err)
	}
	now := time.Now()
	if c.Ask {
		v := a.Ask(g.Run, e.Limits, now)
		a.unstored = a.unstored || v.Limit == ""
		if v.Limit != "" {
			d.log.Info("limit reached", zap.String("run", g.Run), zap.String("secret", e.Name), zap.String("limit", v.Limit))
		}
		return v, nil
	}
	err = d.changeAccount(ctx, key, func(a *openAccount) { a.Add(g.Run, c.Spend, now) })
	if err != nil {
		d.log.Error("cannot store what was used", zap.String("secret", e.Name), zap.Error(err))
		return api.Verdict{}, fmt.Errorf("%w: %w", api.ErrUnavailable, err)
	}
	return api.Verdict{}, nil
}

// openAccount reads an account, or begins one. The accounts' mutex is held.
func (d *Daemon) openAccount(ctx context.Context, key string) (*openAccount, error) {
	if a := d.accounts.open[key]; a != nil {
		return a, nil
	}
	a := new(openAccount)
	r, err := d.store.Get(ctx, key)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return nil, fmt.Errorf("read store: %w", err)
	default:
		if err := json.Unmarshal(r.Value, &a.Account); err != nil {
			return nil, fmt.Errorf("record %q is damaged", key)
		}
		a.revision = r.Revision
	}
	if d.accounts.open == nil {
		d.accounts.open = make(map[string]*openAccount)
	}
	d.accounts.open[key] = a
	return a, nil
}

// changeAccount changes an account and stores it, again where another secretd on a shared
// store came between.
func (d *Daemon) changeAccount(ctx context.Context, key string, change func(*openAccount)) error {
	for try := 1; ; try++ {
		a, err := d.openAccount(ctx, key)
		if err != nil {
			return err
		}
		change(a)
		if err = d.storeAccount(ctx, key, a); try == accountTries || !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// storeAccount writes an account. One that somebody else has written meanwhile, as
// another secretd on a shared store does, is read anew, and the error wraps
// store.ErrConflict: what was not stored is not in it.
func (d *Daemon) storeAccount(ctx context.Context, key string, a *openAccount) error {
	text, err := json.Marshal(a.Account)
	if err != nil {
		return err
	}
	if err := d.store.Apply(ctx, []store.Change{{Key: key, Value: text, Base: a.revision}}); err != nil {
		if errors.Is(err, store.ErrConflict) {
			delete(d.accounts.open, key)
			if fresh, err := d.openAccount(ctx, key); err == nil {
				fresh.Follow(&a.Account)
			}
		}
		return fmt.Errorf("store what was used: %w", err)
	}
	a.revision++
	a.unstored = false
	return nil
}

// endAccounts forgets a run that has ended, in the accounts of its secrets.
func (d *Daemon) endAccounts(g *grant) {
	d.accounts.mu.Lock()
	defer d.accounts.mu.Unlock()
	for i := range g.Granted {
		e := &g.Granted[i]
		key := spentPrefix + g.Agent + "/" + e.Name
		if e.Limits == (api.Limits{}) {
			continue
		}
		a, err := d.openAccount(context.Background(), key)
		if err != nil {
			continue
		}
		_, counted := a.Runs[g.Run]
		if !counted && !a.unstored {
			continue
		}
		if err := d.changeAccount(context.Background(), key, func(a *openAccount) { a.End(g.Run) }); err != nil {
			d.log.Error("cannot store what was used", zap.String("secret", e.Name), zap.Error(err))
		}
	}
}

// usedToday is what a secret was used for today by runs with limits.
func (d *Daemon) usedToday(ctx context.Context, agent, name string) api.Spend {
	d.accounts.mu.Lock()
	defer d.accounts.mu.Unlock()
	a, err := d.openAccount(ctx, spentPrefix+agent+"/"+name)
	if err != nil {
		return api.Spend{}
	}
	return a.Used(time.Now())
}
