// Package etcd is a store that several hosts share: an etcd cluster.
package etcd

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/superserve/superserve/secretd/store"
)

const (
	// readPatience is how long a read may wait for a majority.
	readPatience = 2 * time.Second
	// memberPatience is how long a read without one may wait for each member: one that is
	// cut off answers nothing, and the client asks them in turns.
	memberPatience = time.Second
	// writePatience is how long a change may take, elections included.
	writePatience = 5 * time.Second
	// stalePause is how long reads do not ask for a majority after one was not there.
	stalePause = 5 * time.Second
	// page is how many records are read at once.
	page = 500
)

// Config says where the cluster is.
type Config struct {
	// Endpoints are the members' client addresses, https://HOST:PORT.
	Endpoints []string
	// Prefix is what the keys begin with, without a slash at its end. Who may write below
	// it can delete and damage secrets, and is noticed; without the store's key nobody
	// reads or makes them.
	Prefix string
	// TLS is nil for http endpoints only.
	TLS *tls.Config
	// Username and Password are those of etcd's own users, "" for none.
	Username, Password string
}

// Store is a store.Watcher in etcd. A record's revision is what etcd calls the version of
// its key.
type Store struct {
	client *clientv3.Client
	prefix string
	id     string
	stale  atomic.Int64 // until when reads ask any one member, in Unix nanoseconds
}

// Open connects to a cluster and gives the store there its name, if it has none. A
// majority has to be there.
func Open(ctx context.Context, c Config) (*Store, error) {
	if len(c.Endpoints) == 0 || c.Prefix == "" || strings.HasSuffix(c.Prefix, "/") {
		return nil, errors.New("open etcd: give endpoints, and a prefix that does not end in a slash")
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: c.Endpoints, TLS: c.TLS, Username: c.Username, Password: c.Password,
		DialTimeout: writePatience, DialKeepAliveTime: readPatience, DialKeepAliveTimeout: readPatience,
		Logger: zap.NewNop(), // its words are in the errors
	})
	if err != nil {
		return nil, fmt.Errorf("open etcd: %w", err)
	}
	s := &Store{client: client, prefix: c.Prefix}
	if err := s.name(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open etcd: %w", err), client.Close())
	}
	return s, nil
}

// name reads the store's name, which the first who comes draws.
func (s *Store) name(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	key := s.prefix + "/id"
	_, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.Version(key), "=", 0)).
		Then(clientv3.OpPut(key, rand.Text())).Commit()
	if err != nil {
		return err
	}
	got, err := s.client.Get(ctx, key)
	if err != nil {
		return err
	}
	if len(got.Kvs) != 1 || len(got.Kvs[0].Value) == 0 {
		return fmt.Errorf("%q is not a name: %w", key, store.ErrDamaged)
	}
	s.id = string(got.Kvs[0].Value)
	return nil
}

// ID returns the store's own name.
func (s *Store) ID() string { return s.id }

func (s *Store) records() string { return s.prefix + "/records/" }

// Get returns one record, or store.ErrNotFound. Without a majority it is what one member
// has.
func (s *Store) Get(ctx context.Context, key string) (store.Record, error) {
	r, err := s.read(ctx, s.records()+key)
	if err != nil {
		return store.Record{}, err
	}
	if len(r.Kvs) == 0 {
		return store.Record{}, store.ErrNotFound
	}
	return store.Record{Key: key, Value: r.Kvs[0].Value, Revision: uint64(r.Kvs[0].Version)}, nil
}

// read asks a majority, and any member when there is none: reads go on where the cluster
// is cut in two or has lost members.
func (s *Store) read(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if time.Now().UnixNano() > s.stale.Load() {
		r, err := s.get(ctx, readPatience, key, options...)
		if err == nil || ctx.Err() != nil {
			return r, err
		}
	}
	options = append(options, clientv3.WithSerializable())
	r, err := s.get(ctx, memberPatience, key, options...)
	for try := 1; err != nil && try < len(s.client.Endpoints()) && ctx.Err() == nil; try++ {
		r, err = s.get(ctx, memberPatience, key, options...)
	}
	if err == nil {
		s.stale.Store(time.Now().Add(stalePause).UnixNano())
	}
	return r, err
}

func (s *Store) get(ctx context.Context, patience time.Duration, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := s.client.Get(ctx, key, options...)
	if err != nil {
		return nil, fmt.Errorf("read etcd: %w", err)
	}
	return r, nil
}

// Walk visits the records whose keys begin with prefix, sorted by key, as they were at one
// moment.
func (s *Store) Walk(ctx context.Context, prefix string, visit func(store.Record) error) error {
	from, revision := s.records()+prefix, int64(0)
	end := clientv3.GetPrefixRangeEnd(from)
	for {
		r, err := s.read(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(revision),
			clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
		if err != nil {
			return err
		}
		for _, kv := range r.Kvs {
			record := store.Record{Key: strings.TrimPrefix(string(kv.Key), s.records()), Value: kv.Value, Revision: uint64(kv.Version)}
			if err := visit(record); err != nil {
				return err
			}
		}
		if !r.More {
			return nil
		}
		revision = r.Header.Revision
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// Apply makes all changes or none, in one transaction, by a majority. After an error of
// the network they may have been made all the same.
func (s *Store) Apply(ctx context.Context, changes []store.Change) error {
	if len(changes) == 0 {
		return nil
	}
	var conditions []clientv3.Cmp
	var operations []clientv3.Op
	for _, c := range changes {
		key := s.records() + c.Key
		conditions = append(conditions, clientv3.Compare(clientv3.Version(key), "=", int64(c.Base)))
		if c.Delete {
			operations = append(operations, clientv3.OpDelete(key))
		} else {
			operations = append(operations, clientv3.OpPut(key, string(c.Value)))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	r, err := s.client.Txn(ctx).If(conditions...).Then(operations...).Commit()
	switch {
	case errors.Is(err, rpctypes.ErrTooManyOps):
		return fmt.Errorf("write etcd: %d changes at once are more than its --max-txn-ops: %w", len(changes), err)
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("write etcd: its quota is used up: compact and defragment it, then disarm its alarm: %w", err)
	case err != nil:
		return fmt.Errorf("write etcd: %w", err)
	case !r.Succeeded:
		return fmt.Errorf("write etcd: %w", store.ErrConflict)
	}
	return nil
}

// Watch follows the records, as long as the member that it asks is of the majority.
func (s *Store) Watch(ctx context.Context, changed func(keys []string)) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	events := s.client.Watch(ctx, s.records(), clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	for r := range events {
		if err := r.Err(); err != nil {
			return fmt.Errorf("watch etcd: %w", err)
		}
		keys := make([]string, len(r.Events))
		for i, e := range r.Events {
			keys[i] = strings.TrimPrefix(string(e.Kv.Key), s.records())
		}
		if len(keys) > 0 || r.Created {
			changed(keys)
		}
	}
	return fmt.Errorf("watch etcd: %w", context.Cause(ctx))
}

// Close lets go of the cluster.
func (s *Store) Close() error {
	err := s.client.Close()
	if errors.Is(err, context.Canceled) || errors.Is(err, grpc.ErrClientConnClosing) {
		return nil
	}
	return err
}
