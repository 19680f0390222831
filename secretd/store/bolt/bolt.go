// Package bolt is the store of one host: a bbolt file.
package bolt

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/private"
	"github.com/superserve/superserve/secretd/store"
)

// lockTimeout is how long Open waits for another process to let go of the file.
const lockTimeout = time.Second

// revisionLen is the length of the revision before each value, in bytes.
const revisionLen = 8

var (
	metaBucket   = []byte("superserve meta 1")
	recordBucket = []byte("superserve records 1")
	idKey        = []byte("id")
)

// Store is a store.Store in a bbolt file.
type Store struct {
	db *bbolt.DB
	id string
}

// Open opens the store at path, or makes it when there is none: in a file beside it
// that is renamed when it is whole, because a power cut during bbolt's own first
// write can leave half a file. It refuses links, other owners and open modes, and a
// file that another process has open.
func Open(path string) (*Store, error) {
	if err := ensure(path); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	db, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open store %q: %w", path, err)
	}
	s := &Store{db: db}
	if err := s.view(s.readID); err != nil {
		db.Close()
		return nil, fmt.Errorf("open store %q: %w", path, err)
	}
	return s, nil
}

func ensure(path string) error {
	f, err := private.Open(path, os.O_RDWR)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return Create(path, rand.Text(), nil)
}

// Create makes a store at path, of the name id, that fill has put records into; nil puts
// none. It is there wholly or not at all, and the error wraps fs.ErrExist when something
// was there before.
func Create(path, id string, fill func(*Store) error) error {
	temporary := path + ".new-" + rand.Text()[:8]
	defer os.Remove(temporary)
	if err := create(temporary, id, fill); err != nil {
		return err
	}
	return private.Publish(temporary, path)
}

func create(path, id string, fill func(*Store) error) error {
	db, err := open(path)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucket(recordBucket); err != nil {
			return err
		}
		return meta.Put(idKey, []byte(id))
	})
	if err == nil && fill != nil {
		err = fill(&Store{db: db, id: id})
	}
	return errors.Join(err, db.Sync(), db.Close())
}

func open(path string) (*bbolt.DB, error) {
	var db *bbolt.DB
	var file *os.File
	// Opening it ourselves closes the gap between the check of the file and its opening
	// by name.
	openFile := func(path string, flag int, _ os.FileMode) (f *os.File, err error) {
		file, err = private.Open(path, flag)
		return file, err
	}
	err := careful(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, OpenFile: openFile})
		return err
	})
	if errors.Is(err, store.ErrDamaged) && file != nil {
		// bbolt's panic left the file locked and mapped; a mapping keeps the lock of a
		// file that is closed.
		_ = unix.Flock(int(file.Fd()), unix.LOCK_UN)
		file.Close()
	}
	if errors.Is(err, bbolt.ErrTimeout) {
		return nil, private.ErrLocked
	}
	return db, err
}

func (s *Store) readID(tx *bbolt.Tx) error {
	meta, records := tx.Bucket(metaBucket), tx.Bucket(recordBucket)
	if meta == nil || records == nil || len(meta.Get(idKey)) == 0 {
		return fmt.Errorf("not a store of secretd: %w", store.ErrDamaged)
	}
	s.id = string(meta.Get(idKey))
	return nil
}

// ID returns the store's own name.
func (s *Store) ID() string { return s.id }

// Get returns one record, or store.ErrNotFound.
func (s *Store) Get(_ context.Context, key string) (store.Record, error) {
	var r store.Record
	err := s.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(recordBucket).Get([]byte(key))
		if v == nil {
			return store.ErrNotFound
		}
		var err error
		r, err = decode(key, v)
		r.Value = bytes.Clone(r.Value) // bolt's slices end with the transaction
		return err
	})
	return r, err
}

// Walk visits the records whose keys begin with prefix, sorted by key.
func (s *Store) Walk(_ context.Context, prefix string, visit func(store.Record) error) error {
	return s.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(recordBucket).Cursor()
		for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
			r, err := decode(string(k), v)
			if err != nil {
				return err
			}
			if err := visit(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// Apply makes all changes or none; bbolt syncs the file twice before it returns.
func (s *Store) Apply(_ context.Context, changes []store.Change) error {
	if len(changes) == 0 {
		return nil
	}
	return careful(func() error { return s.db.Update(applyAll(changes)) })
}

func applyAll(changes []store.Change) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		records := tx.Bucket(recordBucket)
		for _, c := range changes {
			if err := apply(records, c); err != nil {
				return fmt.Errorf("change %q: %w", c.Key, err)
			}
		}
		return nil
	}
}

func apply(records *bbolt.Bucket, c store.Change) error {
	var revision uint64
	if v := records.Get([]byte(c.Key)); v != nil {
		r, err := decode(c.Key, v)
		if err != nil {
			return err
		}
		revision = r.Revision
	}
	if revision != c.Base {
		return store.ErrConflict
	}
	if c.Delete {
		return records.Delete([]byte(c.Key))
	}
	v := binary.BigEndian.AppendUint64(make([]byte, 0, revisionLen+len(c.Value)), revision+1)
	return records.Put([]byte(c.Key), append(v, c.Value...))
}

// decode parts a value from its revision; the value still is bolt's.
func decode(key string, v []byte) (store.Record, error) {
	if len(v) < revisionLen {
		return store.Record{}, fmt.Errorf("record %q is cut: %w", key, store.ErrDamaged)
	}
	return store.Record{Key: key, Value: v[revisionLen:], Revision: binary.BigEndian.Uint64(v)}, nil
}

func (s *Store) view(f func(*bbolt.Tx) error) error {
	return careful(func() error { return s.db.View(f) })
}

// careful makes an error of what bbolt does with a file that was changed from outside:
// it panics, or follows a page number beyond the end of its mapping. bbolt rolls back
// on the way.
func careful(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = store.ErrDamaged // the text of the panic can quote the file
		}
	}()
	return f()
}

// Close lets go of the file.
func (s *Store) Close() error { return s.db.Close() }
