package secretd

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/audit"
	"github.com/superserve/superserve/secretd/ledger"
	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/store"
)

const (
	// rootKey is the record with the wrapped root key, a seal.Root in JSON.
	rootKey = "root"
	// auditKey is the record with the key of the audit log's chain, which outlives
	// the root keys.
	auditKey = "key/audit"
	// checkKey is in a store of the first version, which had no root key of its own.
	checkKey = "check"
)

// unlock gets the root key, by which it opens the ledger, or makes both with a store
// that is new.
func (d *Daemon) unlock(ctx context.Context) error {
	r, err := d.store.Get(ctx, rootKey)
	if errors.Is(err, store.ErrNotFound) {
		return d.found(ctx)
	}
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	if err := json.Unmarshal(r.Value, &d.root); err != nil {
		return fmt.Errorf("root key: %w", seal.ErrSealed)
	}
	d.rootRecord = r.Value
	if d.source, err = d.sourceOf(d.root); err != nil {
		return err
	}
	root, err := d.root.Open(ctx, d.source, d.store.ID())
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	defer locked.Wipe(root)
	if d.sealer, err = seal.New(root); err != nil {
		return err
	}
	if err := d.openLedger(ctx); err != nil {
		return err
	}
	return d.retire(ctx)
}

// sourceOf picks where the key of a store comes from.
func (d *Daemon) sourceOf(r seal.Root) (seal.Source, error) {
	switch {
	case d.cfg.Keys != nil:
		return d.cfg.Keys, nil
	case r.Source == seal.File{}.Kind():
		return d.keyFile(), nil
	case d.cfg.KeySource != nil:
		return d.cfg.KeySource(r.Source)
	}
	return nil, fmt.Errorf("the store's key comes from %q, and nothing says where that is", r.Source)
}

func (d *Daemon) keyFile() seal.File { return seal.File{Path: filepath.Join(d.dir, "key")} }

// retire forgets keys of before, which a change of the key left when it was interrupted
// after the store had changed.
func (d *Daemon) retire(ctx context.Context) error {
	if err := d.source.Retire(ctx, d.root.Header); err != nil {
		return fmt.Errorf("retire old key: %w", err)
	}
	if d.root.Before == d.keyFile().Kind() && d.root.Source != d.root.Before {
		return d.keyFile().Retire(ctx, nil)
	}
	return nil
}

func (d *Daemon) ledgerConfig(anchorBase []byte) (ledger.Config, error) {
	c := ledger.Config{Store: d.store, Sealer: d.sealer, Log: d.log, Anchor: d.cfg.AnchorTPM, Mark: func() audit.Mark {
		if d.audit == nil {
			return audit.Mark{}
		}
		return d.audit.Durable()
	}}
	if d.cfg.Shared != nil {
		// The audit log is this host's, and no mark of it is of use to others.
		c.Shared, c.Local, c.Mark = true, ownKey, nil
	}
	if c.Anchor == nil {
		path := d.cfg.Anchor
		if path == "" {
			path = d.anchorPath()
		}
		key, err := hkdf.Key(sha256.New, anchorBase, nil, "superserve anchor 1", seal.KeySize)
		if err != nil {
			return c, fmt.Errorf("derive key: %w", err)
		}
		c.Anchor = ledger.NewFile(path, key)
	}
	return c, nil
}

func (d *Daemon) anchorPath() string {
	if d.cfg.Shared != nil {
		return filepath.Join(d.cfg.State, "secretd.shared.anchor")
	}
	return filepath.Join(d.cfg.State, "secretd.anchor")
}

// openLedger opens the ledger, and accepts a store that cannot be trusted when that was
// asked for.
func (d *Daemon) openLedger(ctx context.Context) error {
	key, err := d.loadAuditKey(ctx)
	if err != nil {
		return err
	}
	c, err := d.ledgerConfig(key)
	if err != nil {
		return err
	}
	l, err := ledger.Open(ctx, c)
	if ledger.Mistrust(err) && d.cfg.AcceptRollback {
		d.log.Warn("a store that cannot be trusted is accepted", zap.Error(err))
		d.accepted = true
		l, err = ledger.Accept(ctx, c, nil)
	}
	if errors.Is(err, ledger.ErrChanged) {
		err = errors.Join(err, d.examine(ctx))
	}
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	d.store, d.ledger = l, l
	return nil
}

func (d *Daemon) auditPlace() seal.Place { return seal.Place{Store: d.store.ID(), Kind: auditKey} }

func (d *Daemon) loadAuditKey(ctx context.Context) ([]byte, error) {
	r, err := d.store.Get(ctx, auditKey)
	if err != nil {
		return nil, fmt.Errorf("key of the audit log: %w", err)
	}
	key, err := d.sealer.Open(d.auditPlace(), r.Value)
	if err != nil {
		return nil, fmt.Errorf("key of the audit log: %w", err)
	}
	return key, nil
}

func (d *Daemon) openAudit(ctx context.Context) error {
	key, err := d.loadAuditKey(ctx)
	if err != nil {
		return err
	}
	path := filepath.Join(d.dir, "audit.log")
	d.audit, err = audit.Open(path, key, d.ledger.Audited())
	if err == nil || !d.cfg.AcceptRollback {
		return err
	}
	d.log.Warn("an audit log that cannot be trusted is accepted", zap.Error(err))
	d.accepted = true
	if errors.Is(err, audit.ErrChanged) { // another store's, perhaps; kept for a person to read
		err = os.Rename(path, path+"."+time.Now().UTC().Format("20060102T150405.000"))
	} else if errors.Is(err, audit.ErrCut) {
		err = nil
	}
	if err != nil {
		return err
	}
	if err := d.ledger.Forget(ctx); err != nil {
		return err
	}
	d.audit, err = audit.Open(path, key, audit.Mark{})
	return err
}

// found makes the root key and the ledger of a store that has none: it is new, or of
// the first version, whose records are sealed anew.
func (d *Daemon) found(ctx context.Context) error {
	d.source = d.cfg.Keys
	if d.source == nil {
		d.source = d.keyFile()
	}
	_, err := d.store.Get(ctx, checkKey)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("read store: %w", err)
	}
	if err == nil {
		return d.upgrade(ctx)
	}
	return d.first(ctx, nil, false)
}

// upgrade finds a store of the first version, whose root key was the key file's own.
func (d *Daemon) upgrade(ctx context.Context) error {
	root, err := d.keyFile().Key(ctx, d.store.ID(), nil)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	defer locked.Wipe(root)
	before, err := seal.New(root)
	if err != nil {
		return err
	}
	return d.first(ctx, before, true)
}

// first writes the first root key and head of a store. before is the sealer of the
// records that are there, nil for none.
func (d *Daemon) first(ctx context.Context, before *seal.Sealer, rekey bool) error {
	key, change, err := d.newRoot(ctx, d.source, rekey, 0)
	if err != nil {
		return err
	}
	defer locked.Wipe(key)
	if d.sealer, err = seal.New(key); err != nil {
		return err
	}
	chain := d.sealer.AuditKey()
	changes := []store.Change{change}
	if before != nil {
		chain = before.AuditKey()
		again, err := d.sealAgain(ctx, before, d.sealer)
		if err != nil {
			return err
		}
		changes = append(changes, again...)
	}
	sealed, err := d.sealer.Seal(d.auditPlace(), chain)
	if err != nil {
		return err
	}
	changes = append(changes, store.Change{Key: auditKey, Value: sealed})
	c, err := d.ledgerConfig(chain)
	if err != nil {
		return err
	}
	l, err := ledger.Create(ctx, c, changes)
	if errors.Is(err, ledger.ErrAnchor) && d.cfg.AcceptRollback {
		d.accepted = true
		l, err = ledger.Accept(ctx, c, changes)
	}
	if err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	d.store, d.ledger = l, l
	return d.retire(ctx)
}

// newRoot makes a root key and the change that stores it. Base is the revision of the
// one that it replaces.
func (d *Daemon) newRoot(ctx context.Context, src seal.Source, rekey bool, base uint64) ([]byte, store.Change, error) {
	r, key, err := seal.NewRoot(ctx, src, d.store.ID(), rekey)
	if err != nil {
		return nil, store.Change{}, err
	}
	r.Before = d.root.Source
	value, err := json.Marshal(r)
	if err != nil {
		locked.Wipe(key)
		return nil, store.Change{}, fmt.Errorf("root key: %w", err)
	}
	d.root, d.rootRecord = r, value
	return key, store.Change{Key: rootKey, Value: value, Base: base}, nil
}
