// Package ledger makes a store's files as a whole trustworthy, where a seal does so for
// one record. It keeps a sum over all records in a sealed record of its own, the head,
// so that records that were removed, added or put back from an older copy are noticed;
// and it counts the admin's changes, so that an older copy of the whole store is noticed
// by a counter that lies elsewhere, the anchor.
package ledger

import (
	"cmp"
	"context"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/audit"
	"github.com/superserve/superserve/secretd/failpoint"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/store"
)

// headKey is the key of the one record that the sum leaves out.
const headKey = "head"

// sharedTries is how often a change of a shared store is tried, or its sum looked at, while
// others change it.
const sharedTries = 20

// The reasons not to trust a store.
var (
	// ErrRollback means that the store is older than its anchor.
	ErrRollback = errors.New("the store was rolled back: it is older than its anchor")
	// ErrAnchor means that the anchor is missing, or another store's.
	ErrAnchor = errors.New("the anchor is not this store's")
	// ErrChanged means that records are not those that the head sums up.
	ErrChanged = errors.New("records were changed, removed, added or put back outside secretd")
)

// Mistrust reports whether err is a reason that only a person can set aside.
func Mistrust(err error) bool {
	return errors.Is(err, ErrRollback) || errors.Is(err, ErrAnchor) || errors.Is(err, ErrChanged) || errors.Is(err, audit.ErrCut) || errors.Is(err, audit.ErrChanged)
}

// Anchor keeps one number outside the store.
type Anchor interface {
	// Load returns the highest generation that was saved for a store. The error wraps
	// ErrAnchor when there is another store's, and fs.ErrNotExist too when there is
	// none.
	Load(ctx context.Context, store string) (uint64, error)
	// Save makes generation durable. It may take one that was saved before.
	Save(ctx context.Context, store string, generation uint64) error
}

// Config is what a Ledger is opened with.
type Config struct {
	Store  store.Store
	Sealer *seal.Sealer
	// Anchor is nil for none.
	Anchor Anchor
	// Shared is true for a store that daemons on other hosts change too. Each has an anchor
	// of its own, which begins where the store is when it comes.
	Shared bool
	// Local reports whether a record is this host's alone, and not summed; nil for none.
	Local func(key string) bool
	// Mark returns the end of the audit log; nil for none. It is called with the
	// ledger locked.
	Mark func() audit.Mark
	// Log is nil for none.
	Log *zap.Logger
}

// head is what the head record says, sealed.
type head struct {
	// Generation counts the changes by an admin: of secrets and keys, not of grants.
	Generation uint64     `json:"generation"`
	Records    uint64     `json:"records"`
	Sum        [32]byte   `json:"sum"`
	Audit      audit.Mark `json:"audit"`
	// Anchored is false for a moment when a store is made: until its anchor is.
	Anchored bool `json:"anchored"`
}

// Ledger is a store.Store over another one. It is safe for concurrent use.
type Ledger struct {
	store.Store
	anchor Anchor
	mark   func() audit.Mark
	log    *zap.Logger
	shared bool
	local  func(key string) bool

	writes atomic.Uint64

	mu       sync.Mutex
	sealer   *seal.Sealer
	head     head
	revision uint64 // of the head record
	behind   bool   // the anchor is
	stale    bool   // head is not known to be the store's
}

// Open reads the head, checks the sum over all records, and compares with the anchor.
// The error wraps ErrChanged, ErrRollback or ErrAnchor.
func Open(ctx context.Context, c Config) (*Ledger, error) {
	l := newLedger(c)
	err := l.check(ctx)
	for try := 1; l.shared && try < sharedTries && (errors.Is(err, ErrChanged) || errors.Is(err, errHeadMoved)); try++ {
		err = l.check(ctx) // somebody else's change came between the head and the records
	}
	if err != nil {
		return nil, err
	}
	return l, l.compare(ctx)
}

func (l *Ledger) check(ctx context.Context) error {
	if err := l.load(ctx); err != nil {
		return err
	}
	return l.verify(ctx)
}

// Create makes the first changes of a store that has no head, and its anchor. It
// refuses with ErrAnchor where an anchor is already, which is another store's: the
// store that it was for is gone.
func Create(ctx context.Context, c Config, changes []store.Change) (*Ledger, error) {
	l := newLedger(c)
	if l.anchor != nil {
		if _, err := l.anchor.Load(ctx, l.ID()); !errors.Is(err, fs.ErrNotExist) {
			return nil, cmp.Or(err, ErrAnchor)
		}
	}
	return l, l.adopt(ctx, changes)
}

// Accept opens a store as it is: what is there, with changes, becomes what is trusted,
// under a new generation that is above the anchor's.
func Accept(ctx context.Context, c Config, changes []store.Change) (*Ledger, error) {
	l := newLedger(c)
	if err := l.load(ctx); err != nil && !errors.Is(err, ErrChanged) {
		return nil, err
	}
	if l.anchor != nil {
		anchored, err := l.anchor.Load(ctx, l.ID())
		if err != nil && !errors.Is(err, ErrAnchor) {
			return nil, err
		}
		l.head.Generation = max(l.head.Generation, anchored)
	}
	return l, l.adopt(ctx, changes)
}

// adopt trusts what is in the store: it writes a head for it, then the anchor, then that
// there is one. A daemon that ends in between leaves a head without Anchored.
func (l *Ledger) adopt(ctx context.Context, changes []store.Change) error {
	h, err := l.summed(ctx, changes, newTagger(l.sealer.LedgerKey()))
	if err != nil {
		return err
	}
	h.Generation++
	h.Audit = l.mark()
	if err := l.write(ctx, changes, h); err != nil {
		return err
	}
	return l.anchorFirst(ctx)
}

func (l *Ledger) anchorFirst(ctx context.Context) error {
	if l.anchor == nil {
		return nil
	}
	if err := l.anchor.Save(ctx, l.ID(), l.head.Generation); err != nil {
		return fmt.Errorf("make anchor: %w", err)
	}
	failpoint.Hit("anchor written")
	// A counter does not begin where one likes.
	anchored, err := l.anchor.Load(ctx, l.ID())
	if err != nil {
		return fmt.Errorf("make anchor: %w", err)
	}
	h := l.head
	h.Generation, h.Anchored = max(h.Generation, anchored), true
	return l.write(ctx, nil, h)
}

func newLedger(c Config) *Ledger {
	l := &Ledger{Store: c.Store, sealer: c.Sealer, anchor: c.Anchor, mark: c.Mark, log: c.Log, shared: c.Shared, local: c.Local}
	if l.log == nil {
		l.log = zap.NewNop()
	}
	if l.mark == nil {
		l.mark = func() audit.Mark { return audit.Mark{} }
	}
	if l.local == nil {
		l.local = func(string) bool { return false }
	}
	return l
}

// Audited returns the place in the audit log that the last change was recorded before:
// a log that does not have it was cut.
func (l *Ledger) Audited() audit.Mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.Audit
}

// Forget lets go of the place in the audit log, whose end is gone.
func (l *Ledger) Forget(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := l.head
	next.Audit = audit.Mark{}
	return l.write(ctx, nil, next)
}

// Generation returns how many changes by an admin the store has seen.
func (l *Ledger) Generation() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head.Generation
}

// Touch counts a change that another host has made: nothing that was read before may be
// taken for what the store has.
func (l *Ledger) Touch() { l.writes.Add(2) }

// Writes counts the beginnings and the ends of changes: what was read while it was even
// is what the store has for as long as it stays the same. Changes by
// another host count from Touch on.
func (l *Ledger) Writes() uint64 { return l.writes.Load() }

func (l *Ledger) place() seal.Place { return seal.Place{Store: l.ID(), Kind: headKey} }

func (l *Ledger) load(ctx context.Context) error {
	r, err := l.Get(ctx, headKey)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: its head is missing", ErrChanged)
	}
	if err != nil {
		return fmt.Errorf("read head: %w", err)
	}
	l.revision = r.Revision
	plain, err := l.sealer.Open(l.place(), r.Value)
	var h head
	if err == nil {
		err = json.Unmarshal(plain, &h)
	}
	if err != nil {
		return fmt.Errorf("%w: head: %w", ErrChanged, err)
	}
	if h.Generation < l.head.Generation {
		// Of a store that others change too, a member that is behind says so for a moment.
		return fmt.Errorf("%w, %w: generation %d, where this daemon saw %d", ErrRollback, errHeadMoved, h.Generation, l.head.Generation)
	}
	l.head, l.stale = h, false
	return nil
}

// verify compares the head with the records.
func (l *Ledger) verify(ctx context.Context) error {
	found, err := l.summed(ctx, nil, newTagger(l.sealer.LedgerKey()))
	if err != nil {
		return err
	}
	if found.Records != l.head.Records || !hmac.Equal(found.Sum[:], l.head.Sum[:]) {
		return fmt.Errorf("%w: there are %d, and the head counts %d", ErrChanged, found.Records, l.head.Records)
	}
	return nil
}

// compare holds the store against its anchor. A store that is ahead is one whose
// daemon ended between its change and the anchor's.
func (l *Ledger) compare(ctx context.Context) error {
	if l.anchor == nil {
		return nil
	}
	anchored, err := l.anchor.Load(ctx, l.ID())
	if l.shared && errors.Is(err, fs.ErrNotExist) {
		return l.anchor.Save(ctx, l.ID(), l.head.Generation)
	}
	if err != nil && (l.head.Anchored || !errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	if !l.head.Anchored {
		return l.anchorFirst(ctx)
	}
	if l.head.Generation < anchored {
		return fmt.Errorf("%w: generation %d, where the anchor saw %d", ErrRollback, l.head.Generation, anchored)
	}
	if l.head.Generation > anchored {
		return l.anchor.Save(ctx, l.ID(), l.head.Generation)
	}
	return nil
}

func (l *Ledger) counted(key string) bool { return key != headKey && !l.local(key) }

// Apply makes all changes or none, with the head that fits them. An admin's change is
// anchored before Apply returns; where the anchor cannot be written, that change still
// stands, and the next one is refused until it can.
func (l *Ledger) Apply(ctx context.Context, changes []store.Change) error {
	if len(changes) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.ContainsFunc(changes, func(c store.Change) bool { return l.counted(c.Key) }) {
		return l.Store.Apply(ctx, changes)
	}
	err := l.apply(ctx, changes)
	for try := 1; l.shared && try < sharedTries && errors.Is(err, errHeadMoved); try++ {
		err = l.apply(ctx, changes)
	}
	return err
}

// errHeadMoved means that the records are as the changes expect, but another host has
// changed others meanwhile.
var errHeadMoved = fmt.Errorf("the store has changed meanwhile: %w", store.ErrConflict)

func (l *Ledger) apply(ctx context.Context, changes []store.Change) error {
	if l.stale {
		if err := l.load(ctx); err != nil {
			return err
		}
	}
	next, err := l.next(ctx, changes)
	if err != nil {
		return err
	}
	err = l.commit(ctx, changes, next, admins(changes))
	if errors.Is(err, store.ErrConflict) {
		return errHeadMoved
	}
	return err
}

// admins reports whether a change is an admin's: of anything but grants, times of use and amounts of
// use, which change with every run and would wear an anchor out, and notes on uploads.
func admins(changes []store.Change) bool {
	for _, c := range changes {
		if !strings.HasPrefix(c.Key, "grant/") && !strings.HasPrefix(c.Key, "used/") && !strings.HasPrefix(c.Key, "spent/") && !strings.HasPrefix(c.Key, "upload/") {
			return true
		}
	}
	return false
}

// next returns the head after changes.
func (l *Ledger) next(ctx context.Context, changes []store.Change) (head, error) {
	h := l.head
	t := newTagger(l.sealer.LedgerKey())
	for _, c := range changes {
		if !l.counted(c.Key) {
			continue
		}
		if c.Base > 0 || l.shared {
			old, err := l.Get(ctx, c.Key)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return h, fmt.Errorf("read store: %w", err)
			}
			if old.Revision != c.Base { // 0 where there is none
				return h, fmt.Errorf("change %q: %w", c.Key, store.ErrConflict)
			}
			if c.Base > 0 {
				h.Records--
				t.into(&h.Sum, old)
			}
		}
		if !c.Delete {
			h.Records++
			t.into(&h.Sum, store.Record{Key: c.Key, Value: c.Value, Revision: c.Base + 1})
		}
	}
	return h, nil
}

// commit stores changes with their head, and for an admin's counts and anchors them.
func (l *Ledger) commit(ctx context.Context, changes []store.Change, next head, admins bool) error {
	if admins && l.behind {
		if err := l.anchor.Save(ctx, l.ID(), l.head.Generation); err != nil {
			return fmt.Errorf("write anchor: %w", err)
		}
		l.behind = false
	}
	if admins {
		next.Generation++
		next.Audit = l.mark()
	}
	if err := l.write(ctx, changes, next); err != nil {
		return err
	}
	if admins && l.anchor != nil {
		if err := l.anchor.Save(ctx, l.ID(), next.Generation); err != nil {
			l.behind = true
			l.log.Error("cannot write the anchor: no further change until it can be", zap.Error(err))
		}
		failpoint.Hit("anchor written")
	}
	return nil
}

// write stores changes with their head.
func (l *Ledger) write(ctx context.Context, changes []store.Change, next head) error {
	change, err := l.seal(next)
	if err != nil {
		return err
	}
	failpoint.Hit("store begun")
	// After an error it is not known whether the store took the change.
	l.stale = true
	l.writes.Add(1)
	defer l.writes.Add(1)
	if err := l.Store.Apply(ctx, append(changes[:len(changes):len(changes)], change)); err != nil {
		return err
	}
	failpoint.Hit("store changed")
	l.head, l.revision, l.stale = next, l.revision+1, false
	return nil
}

func (l *Ledger) seal(h head) (store.Change, error) {
	plain, err := json.Marshal(h)
	if err != nil {
		return store.Change{}, fmt.Errorf("head: %w", err)
	}
	sealed, err := l.sealer.Seal(l.place(), plain)
	if err != nil {
		return store.Change{}, err
	}
	return store.Change{Key: headKey, Value: sealed, Base: l.revision}, nil
}

// Rekey makes changes that seal every record anew, and the head under to, which is the
// ledger's sealer from then on.
func (l *Ledger) Rekey(ctx context.Context, changes []store.Change, to *seal.Sealer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.sealer
	h, err := l.summed(ctx, changes, newTagger(to.LedgerKey()))
	if err != nil {
		return err
	}
	l.sealer = to
	if err := l.commit(ctx, changes, h, true); err != nil {
		l.sealer = before
		return err
	}
	return nil
}
