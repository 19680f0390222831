// Package secretd is the only keeper of real keys. It stores them sealed, grants
// each run a channel to exactly its own, and decides and records every use.
package secretd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/audit"
	"github.com/superserve/superserve/secretd/depot"
	"github.com/superserve/superserve/secretd/ledger"
	"github.com/superserve/superserve/secretd/private"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/store"
)

// Config says where a daemon keeps its things.
type Config struct {
	// State is the directory under which the daemon keeps its own, "secretd", of
	// mode 0700: store, key, audit log, lock.
	State string
	// Shared opens a store that daemons on other hosts have open too, in place of the file
	// in State; nil for none. Keys has to give the same key on each of them. The daemon
	// closes it.
	Shared func(context.Context) (store.Watcher, error)
	// SharedParts opens the place of agents' files beside Shared; nil keeps agents as files
	// of each host.
	SharedParts func(context.Context) (store.Store, error)
	// Keys is where the store's key comes from. Where it is nil, a store that is made
	// gets the file "key" in the daemon's directory, and one that is there is opened
	// by KeySource.
	Keys seal.Source
	// KeySource returns the source of a kind that needs to be told nothing; nil knows
	// "file" alone.
	KeySource func(kind string) (seal.Source, error)
	// Anchor is the path of the file that notices a store that was rolled back; "" is
	// "secretd.anchor" in State. AnchorTPM takes its place when it is not nil.
	Anchor    string
	AnchorTPM ledger.Anchor
	// AcceptRollback trusts a store that was rolled back or changed from outside.
	AcceptRollback bool
	// Remote lets admins on other hosts in; the zero value does not.
	Remote Remote
	// Build is the version of the program, for Health.
	Build string
	// Log is nil for none.
	Log *zap.Logger
}

// Daemon is one open store and its live grants. It is safe for concurrent use.
type Daemon struct {
	build  string
	log    *zap.Logger
	cfg    Config
	dir    string
	lock   *os.File
	store  store.Store // closes the file; ledger once that is open
	ledger *ledger.Ledger
	sealer *seal.Sealer
	root   seal.Root
	source seal.Source // of root
	audit  *audit.Log
	// watched is the shared store, nil for none; blind is true while it is not followed.
	watched    store.Watcher
	blind      atomic.Bool
	rootRecord []byte     // as it was opened
	fatal      chan error // ends Serve
	// accepted is true when AcceptRollback was needed.
	accepted bool

	// ctx ends when the daemon does; grants that end later than it are kept in the
	// store, to be resumed.
	ctx    context.Context
	cancel context.CancelFunc
	wait   sync.WaitGroup

	changing sync.Mutex // one admin change at a time

	accounts accounts // of what requests have used

	depot *depot.Depot // nil where agents are files of this host
	host  string       // this host's name, for people
	// hostID tells it from others.
	hostID string
	tend   chan struct{} // asks for depot.Tend

	mu      sync.Mutex
	allowed map[string]api.Binding // by grant and secret: what one run was allowed
	grants  map[string]*grant      // by id, whether their channel is open or not
	used    map[string]time.Time   // by key of the secret, not yet stored
	values  map[string]held        // by key of the secret
	loaded  map[string]loaded      // by key of the secret

	collecting atomic.Bool // a collection is to come
}

// Open opens the store under cfg.State, or makes it. It refuses a directory or file
// that others may touch, a store that another daemon has open, and a key that does
// not open the store.
func Open(ctx context.Context, cfg Config) (*Daemon, error) {
	d, err := closed(cfg)
	if err != nil {
		return nil, err
	}
	if err := d.open(ctx); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// closed returns a daemon that has the lock of its directory and nothing else yet.
func closed(cfg Config) (*Daemon, error) {
	dir := filepath.Join(cfg.State, "secretd")
	if err := private.Dir(dir); err != nil {
		return nil, err
	}
	lock, err := private.Lock(dir)
	if err != nil {
		return nil, err
	}
	d := &Daemon{build: cfg.Build, log: cfg.Log, cfg: cfg, dir: dir, lock: lock, grants: make(map[string]*grant), used: make(map[string]time.Time), values: make(map[string]held), loaded: make(map[string]loaded), fatal: make(chan error, 1)}
	if d.log == nil {
		d.log = zap.NewNop()
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d, nil
}

// storePath returns the path of this host's file: it has the secrets, or beside a shared
// store the grants.
func (d *Daemon) storePath() string {
	if d.cfg.Shared != nil {
		return filepath.Join(d.dir, "runs.db")
	}
	return filepath.Join(d.dir, "store.db")
}

func (d *Daemon) open(ctx context.Context) error {
	if err := private.Sweep(d.storePath()); err != nil {
		return err
	}
	s, err := d.openStore(ctx)
	if err != nil {
		return err
	}
	d.store = s
	if err := d.unlockShared(ctx); err != nil {
		return err
	}
	if err := d.openAudit(ctx); err != nil {
		return err
	}
	if d.accepted {
		if err := d.record(self(), audit.Event{Verb: "accept"}); err != nil {
			return err
		}
	}
	if err := d.loadGrants(ctx); err != nil {
		return err
	}
	if d.watched != nil {
		if err := d.openDepot(ctx); err != nil {
			return err
		}
		d.blind.Store(true)
		d.wait.Go(d.follow)
	}
	return nil
}

// self is the caller of what the daemon does by itself.
func self() caller { return caller{uid: uint32(os.Geteuid()), pid: int32(os.Getpid())} }

// Health describes the daemon.
func (d *Daemon) Health(ctx context.Context) (api.Health, error) {
	agents := make(map[string]bool)
	err := d.store.Walk(ctx, secretPrefix, func(r store.Record) error {
		agent, _, _ := splitKey(r.Key)
		agents[agent] = true
		return nil
	})
	if err != nil {
		return api.Health{}, fmt.Errorf("read store: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return api.Health{Version: api.Version, Build: d.build, Store: d.store.ID(), Agents: len(agents), Grants: len(d.grants)}, nil
}

// Close ends every channel and closes the store. Grants stay in the store: a daemon
// that opens it again lets their holders resume.
func (d *Daemon) Close() error {
	d.mu.Lock()
	d.cancel() // under mu, so that attach starts nothing after it
	d.mu.Unlock()
	d.wait.Wait()
	var errs []error
	if d.store != nil {
		d.storeUsed()
		if d.depot != nil {
			errs = append(errs, d.depot.Close())
		}
		errs = append(errs, d.store.Close())
	}
	if d.audit != nil {
		errs = append(errs, d.audit.Close())
	}
	return errors.Join(append(errs, d.lock.Close())...)
}
