package secretd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/superserve/superserve/secretd/audit"
	"github.com/superserve/superserve/secretd/depot"
	"github.com/superserve/superserve/secretd/failpoint"
	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/store"
)

// Rekey opens the store of cfg, which no daemon may have open, draws a new root key that
// is wrapped by to, and seals every record anew under it, all or none. It returns how
// many records that were. The old key opens nothing afterwards but older copies.
func Rekey(ctx context.Context, cfg Config, to seal.Source) (records int, err error) {
	d, err := Open(ctx, cfg)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.rekey(ctx, to)
}

func (d *Daemon) rekey(ctx context.Context, to seal.Source) (int, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	r, err := d.store.Get(ctx, rootKey)
	if err != nil {
		return 0, fmt.Errorf("read store: %w", err)
	}
	key, change, err := d.newRoot(ctx, to, true, r.Revision)
	if err != nil {
		return 0, err
	}
	defer locked.Wipe(key)
	sealer, err := seal.New(key)
	if err != nil {
		return 0, err
	}
	changes, err := d.sealAgain(ctx, d.sealer, sealer)
	if err != nil {
		return 0, err
	}
	if err := d.record(self(), audit.Event{Verb: "rekey"}); err != nil {
		return 0, err
	}
	if err := d.ledger.Rekey(ctx, append(changes, change), sealer); err != nil {
		return 0, fmt.Errorf("store records: %w", err)
	}
	d.sealer = sealer
	failpoint.Hit("records sealed again")
	before := d.source
	d.source = to
	if err := retireOther(ctx, before, to, d.root.Header); err != nil {
		return len(changes), fmt.Errorf("the store has its new key, but the old one is still there: %w", err)
	}
	return len(changes), nil
}

// retireOther forgets the key of before, unless it is a file that to shares.
func retireOther(ctx context.Context, before, to seal.Source, header []byte) error {
	a, fileBefore := before.(seal.File)
	b, fileTo := to.(seal.File)
	if fileBefore && fileTo && oneFile(a.Path, b.Path) {
		return to.Retire(ctx, header)
	}
	return before.Retire(ctx, nil)
}

// oneFile reports whether two paths, which may be written differently, are one file.
func oneFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return a == b
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// sealAgain returns the changes that seal every record of from under to.
func (d *Daemon) sealAgain(ctx context.Context, from, to *seal.Sealer) ([]store.Change, error) {
	var changes []store.Change
	err := d.store.Walk(ctx, "", func(r store.Record) error {
		c := store.Change{Key: r.Key, Base: r.Revision}
		var err error
		switch {
		case strings.HasPrefix(r.Key, secretPrefix):
			c.Value, err = d.secretAgain(r, from, to)
		case strings.HasPrefix(r.Key, grantPrefix):
			if c.Delete = d.cfg.Shared != nil; c.Delete {
				break // it is in another store, whose change is another: no run may be left with the old key
			}
			c.Value, err = again(d.grantPlace(r.Key[len(grantPrefix):]), r.Value, from, to)
		case r.Key == auditKey:
			c.Value, err = again(d.auditPlace(), r.Value, from, to)
		case r.Key == checkKey:
			c.Delete = true
		default:
			var ours bool
			if c.Value, ours, err = depot.Again(d.store.ID(), r, from, to); !ours {
				return nil // holds nothing that is sealed
			}
		}
		if err != nil {
			return fmt.Errorf("record %q: %w", r.Key, err)
		}
		changes = append(changes, c)
		return nil
	})
	return changes, err
}

func again(p seal.Place, sealed []byte, from, to *seal.Sealer) ([]byte, error) {
	plain, err := from.Open(p, sealed)
	if err != nil {
		return nil, err
	}
	defer locked.Wipe(plain)
	return to.Seal(p, plain)
}

func (d *Daemon) secretAgain(r store.Record, from, to *seal.Sealer) ([]byte, error) {
	s, err := parseSecret(r)
	if err != nil {
		return nil, err
	}
	place, err := d.place(s)
	if err != nil {
		return nil, err
	}
	if s.Sealed, err = again(place, s.Sealed, from, to); err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// examine says what is wrong with the first record that does not open by itself, nil
// when all of them do.
func (d *Daemon) examine(ctx context.Context) error {
	_, err := d.sealAgain(ctx, d.sealer, d.sealer)
	return err
}
