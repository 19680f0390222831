package secretd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/superserve/superserve/secretd/audit"
	"github.com/superserve/superserve/secretd/ledger"
	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/private"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/bolt"
)

// A backup is an age file (age-encryption.org/v1) of JSON lines: a backupHead, then its
// records, as they lie in the store. Grants and times of use are of this host and stay.
const backupFormat = 1

// Limits of a backup that is read: whoever knows a recipient can write one to it.
const (
	maxBackupLine    = 1 << 20 // bytes; a value of api.MaxValue takes a fifth of it
	maxBackupRecords = 1 << 20
	// restoreBatch is how many records become one transaction.
	restoreBatch = 100
)

// ErrBackup means that what is restored is no backup of secretd's, or not a whole one.
var ErrBackup = errors.New("not a whole backup of secretd")

// backupHead is the first line. Root is the root key itself: the source that wraps it
// here, a TPM for example, is not there where the backup is restored.
type backupHead struct {
	Backup  int       `json:"superserve_backup"`
	Made    time.Time `json:"made"`
	Store   string    `json:"store"`
	Records int       `json:"records"`
	Root    []byte    `json:"root"`
}

type backupRecord struct {
	Key   string `json:"key"`
	Value []byte `json:"value"`
}

// Backup writes the secrets of the store of cfg, which no daemon may have open, to w so
// that any one of the recipients can restore them, and returns how many lines that was.
// It is recorded in the audit log before the first byte is written.
func Backup(ctx context.Context, cfg Config, w io.Writer, to ...age.Recipient) (records int, err error) {
	d, err := Open(ctx, cfg)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.record(self(), audit.Event{Verb: "backup"}); err != nil {
		return 0, err
	}
	out, err := age.Encrypt(w, to...)
	if err != nil {
		return 0, fmt.Errorf("encrypt backup: %w", err)
	}
	records, err = d.backup(ctx, out)
	return records, errors.Join(err, out.Close())
}

func (d *Daemon) backup(ctx context.Context, w io.Writer) (int, error) {
	all, err := store.List(ctx, d.store, "")
	if err != nil {
		return 0, fmt.Errorf("read store: %w", err)
	}
	head := backupHead{Backup: backupFormat, Made: time.Now().UTC(), Store: d.store.ID()}
	for _, r := range all {
		if backedUp(r.Key) {
			head.Records++
		}
	}
	if head.Root, err = d.root.Open(ctx, d.source, d.store.ID()); err != nil {
		return 0, err
	}
	defer locked.Wipe(head.Root)
	if err := writeLine(w, head); err != nil {
		return 0, err
	}
	for _, r := range all {
		if !backedUp(r.Key) {
			continue
		}
		if err := writeLine(w, backupRecord{r.Key, r.Value}); err != nil {
			return 0, err
		}
	}
	return head.Records, nil
}

// backedUp reports whether a record goes with the secrets to another host.
func backedUp(key string) bool { return strings.HasPrefix(key, secretPrefix) || key == auditKey }

func writeLine(w io.Writer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode backup: %w", err)
	}
	defer locked.Wipe(line)
	_, err = w.Write(line)
	if err == nil { // by itself: to append it might copy the line
		_, err = w.Write([]byte{'\n'})
	}
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

// Restore makes the store of cfg, of which there may be none yet, from a backup that one
// of the identities opens: under a new root key that comes from cfg.Keys, and under a
// generation that is above its anchor's. It is there wholly or not at all. The error
// wraps ErrBackup for what is no backup, and fs.ErrExist where a store is already.
func Restore(ctx context.Context, cfg Config, r io.Reader, from ...age.Identity) (records int, err error) {
	if cfg.Shared != nil {
		return 0, errors.New("restore backup: only into a store of this host's own")
	}
	plain, err := age.Decrypt(r, from...)
	if err != nil {
		return 0, fmt.Errorf("decrypt backup: %w", err)
	}
	d, err := closed(cfg)
	if err != nil {
		return 0, err
	}
	records, err = d.restore(ctx, plain)
	if err := errors.Join(err, d.Close()); err != nil {
		return 0, err
	}
	d, err = Open(ctx, cfg)
	if err != nil {
		return 0, err
	}
	return records, errors.Join(d.record(self(), audit.Event{Verb: "restore"}), d.Close())
}

func (d *Daemon) restore(ctx context.Context, r io.Reader) (int, error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxBackupLine)
	var head backupHead
	if err := readLine(in, &head); err != nil {
		return 0, err
	}
	defer locked.Wipe(head.Root)
	switch {
	case head.Backup != backupFormat:
		return 0, fmt.Errorf("%w: its format is %d; this secretd reads %d", ErrBackup, head.Backup, backupFormat)
	case head.Records < 1 || head.Records > maxBackupRecords || len(head.Root) != seal.KeySize || head.Store == "":
		return 0, fmt.Errorf("%w: its first line is damaged", ErrBackup)
	}
	if err := d.vacant(); err != nil {
		return 0, err
	}
	err := bolt.Create(d.storePath(), head.Store, func(s *bolt.Store) error {
		d.store = s
		defer func() { d.store, d.ledger = nil, nil }() // its maker closes it
		if err := refill(ctx, s, in, head.Records); err != nil {
			return err
		}
		return d.takeOver(ctx, head.Root)
	})
	return head.Records, err
}

// vacant refuses where a store is: before the anchor is moved on, which would disown it.
func (d *Daemon) vacant() error {
	_, err := os.Lstat(d.storePath())
	if err == nil {
		return fmt.Errorf("move the store %q away first: %w", d.storePath(), fs.ErrExist)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return private.Sweep(d.storePath())
}

// readLine reads one JSON line. The text of an error never quotes it.
func readLine(in *bufio.Scanner, into any) error {
	if !in.Scan() {
		return errors.Join(ErrBackup, in.Err())
	}
	defer locked.Wipe(in.Bytes())
	if err := json.Unmarshal(in.Bytes(), into); err != nil {
		return fmt.Errorf("%w: a line is damaged", ErrBackup)
	}
	return nil
}

// refill puts exactly n records into an empty store.
func refill(ctx context.Context, s store.Store, in *bufio.Scanner, n int) error {
	var changes []store.Change
	for i := range n {
		var r backupRecord
		if err := readLine(in, &r); err != nil {
			return err
		}
		if !backedUp(r.Key) {
			return fmt.Errorf("%w: record %d has a key that no backup has", ErrBackup, i+1)
		}
		changes = append(changes, store.Change{Key: r.Key, Value: r.Value})
		if len(changes) < restoreBatch && i+1 < n {
			continue
		}
		if err := s.Apply(ctx, changes); err != nil {
			return fmt.Errorf("store records: %w", err)
		}
		changes = changes[:0]
	}
	if in.Scan() {
		return fmt.Errorf("%w: it has more than the %d records that it counts", ErrBackup, n)
	}
	if err := in.Err(); err != nil { // age found that its end was cut or changed
		return fmt.Errorf("%w: %w", ErrBackup, err)
	}
	return nil
}

// takeOver seals every record, which are under root now, anew under a root key of this
// host, and vouches for them.
func (d *Daemon) takeOver(ctx context.Context, root []byte) error {
	before, err := seal.New(root)
	if err != nil {
		return err
	}
	d.sealer = before
	chain, err := d.loadAuditKey(ctx)
	if err != nil {
		return err
	}
	if d.source = d.cfg.Keys; d.source == nil {
		d.source = d.keyFile()
	}
	key, change, err := d.newRoot(ctx, d.source, false, 0)
	if err != nil {
		return err
	}
	defer locked.Wipe(key)
	if d.sealer, err = seal.New(key); err != nil {
		return err
	}
	changes, err := d.sealAgain(ctx, before, d.sealer)
	if err != nil {
		return err
	}
	return d.vouch(ctx, chain, append(changes, change))
}

// vouch writes the ledger of a restored store, unless its anchor is another's.
func (d *Daemon) vouch(ctx context.Context, chain []byte, changes []store.Change) error {
	c, err := d.ledgerConfig(chain)
	if err != nil {
		return err
	}
	_, err = c.Anchor.Load(ctx, d.store.ID())
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !d.cfg.AcceptRollback {
		return err
	}
	_, err = ledger.Accept(ctx, c, changes)
	return err
}
