package swap

import (
	"bytes"
	"slices"
	"sync"

	"github.com/superserve/superserve/secretd/api"
)

// maxMinted is how many tokens of answers a run can use at a time. The oldest is
// forgotten for a new one.
const maxMinted = 256

// minted is a token that came in an answer. The run has it by a placeholder, as it has
// its secrets, but it was never stored: it lives in the proxy and ends with the run.
type minted struct {
	secret api.Secret
	// by asks whether the secret that the token was got with may still be used.
	by api.ResolveRequest
	// parent is that secret.
	parent *entry
	// refreshes says that it is a refresh token.
	refreshes bool
}

// purse holds the tokens of a run. Its zero value is ready, and it is safe for
// concurrent use.
type purse struct {
	mu      sync.RWMutex
	entries map[string]*entry
	order   []string
	// newer are values that a token endpoint gave for stored secrets and that could
	// not be stored, by placeholder: the stored ones are dead.
	newer map[string]api.Secret
}

func (p *purse) find(placeholder []byte) *entry {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.entries[string(placeholder)]
}

// within returns a token whose placeholder text holds.
func (p *purse) within(text []byte) *entry {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for placeholder, e := range p.entries {
		if bytes.Contains(text, []byte(placeholder)) {
			return e
		}
	}
	return nil
}

// same returns the entry of a token that the run has already. After a Rebind its parent is another entry of that secret.
func (p *purse) same(value []byte, refreshes bool, parent *entry) *entry {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, e := range p.entries {
		if m := e.minted; m.parent.Placeholder == parent.Placeholder && m.refreshes == refreshes && bytes.Equal(m.secret(), value) {
			return e
		}
	}
	return nil
}

func (p *purse) add(e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.entries == nil {
		p.entries = make(map[string]*entry)
	}
	if len(p.order) >= maxMinted {
		delete(p.entries, p.order[0])
		p.order = slices.Delete(p.order, 0, 1)
	}
	p.entries[e.Placeholder] = e
	p.order = append(p.order, e.Placeholder)
}

// keep holds a newer value of a stored secret; nil forgets it.
func (p *purse) keep(placeholder string, value api.Secret) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if value == nil {
		delete(p.newer, placeholder)
		return
	}
	if p.newer == nil {
		p.newer = make(map[string]api.Secret)
	}
	p.newer[placeholder] = value
}

func (p *purse) newest(placeholder string) api.Secret {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.newer[placeholder]
}
