package depot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/failpoint"
	"github.com/superserve/superserve/secretd/store"
)

const (
	// patience is how long an upload may go on. Clocks of hosts may differ by less.
	patience = time.Hour
	// batch is how many parts are removed at once, below etcd's 128 changes.
	batch = 32
)

// Abort gives an upload up.
func (d *Depot) Abort(ctx context.Context, agent, snapshot string) error {
	n, err := d.upload(ctx, agent, snapshot)
	if err != nil {
		return err
	}
	return d.remove(ctx, n)
}

// Collect removes the parts that no agent's record names any more, those that daemons and clients left which ended
// on the way included.
func (d *Depot) Collect(ctx context.Context) error {
	records, err := store.List(ctx, d.c.Records, UploadPrefix)
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	var errs []error
	for _, r := range records {
		n, err := d.openNote(r)
		if err == nil && (n.Dead || d.c.Now().Sub(n.Begun) > patience) {
			err = d.remove(ctx, n)
		}
		if err != nil && !errors.Is(err, store.ErrConflict) { // with a conflict another host does it
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// remove removes the parts of a snapshot. That no record names it comes first: a deployment that is slow must fail,
// rather than name parts that are gone.
func (d *Depot) remove(ctx context.Context, n note) error {
	if !n.Dead {
		n.Dead = true
		change, err := d.noteChange(n)
		if err != nil {
			return err
		}
		if err := d.c.Records.Apply(ctx, []store.Change{change}); err != nil {
			return fmt.Errorf("give up upload: %w", err)
		}
		n.revision++
	}
	parts, err := d.open(ctx)
	if err != nil {
		return err
	}
	for from := 0; from < n.Parts(); from += batch {
		if err := removeParts(ctx, parts, n, from, min(from+batch, n.Parts())); err != nil {
			return err
		}
		failpoint.Hit("parts removed")
	}
	err = d.c.Records.Apply(ctx, []store.Change{{Key: n.key(), Delete: true, Base: n.revision}})
	if err != nil {
		return fmt.Errorf("forget upload: %w", err)
	}
	return nil
}

// removeParts removes the parts of a range that are there, at once where all are. A part is written once, so that its
// revision is 1.
func removeParts(ctx context.Context, parts store.Store, n note, from, to int) error {
	var changes []store.Change
	for i := from; i < to; i++ {
		changes = append(changes, store.Change{Key: partKey(n.snapshot, i), Delete: true, Base: 1})
	}
	err := parts.Apply(ctx, changes)
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	for _, c := range changes {
		if err := removePart(ctx, parts, c); err != nil {
			return err
		}
	}
	return nil
}

// removePart removes one part, which may not be there.
func removePart(ctx context.Context, parts store.Store, c store.Change) error {
	for try := 0; ; try++ {
		err := parts.Apply(ctx, []store.Change{c})
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
		if _, err := parts.Get(ctx, c.Key); errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if try == tries {
			return fmt.Errorf("remove part: %w", err)
		}
	}
}

// Tend does what is to be done when a daemon has come, or was away: it collects, and notes the versions of all agents.
func (d *Depot) Tend(ctx context.Context) {
	_, err := d.List(ctx)
	if err := errors.Join(err, d.Collect(ctx)); err != nil && ctx.Err() == nil {
		level := d.c.Log.Warn
		if errors.Is(err, api.ErrDamaged) {
			level = d.c.Log.Error
		}
		level("cannot tend the agents of the shared store", zap.Error(err))
	}
}
