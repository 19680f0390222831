package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// disk is a file whose next sync may fail once, as Linux has it: what was not on the disk
// yet is lost, and the sync after that succeeds.
type disk struct {
	mu             sync.Mutex
	cached, stored []byte
	dirty          map[int]bool // bytes of cached that are not stored
	fails          bool
}

func (d *disk) WriteAt(p []byte, at int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cached = append(d.cached, make([]byte, max(0, int(at)+len(p)-len(d.cached)))...)
	for i := range p {
		d.cached[int(at)+i] = p[i]
		d.dirty[int(at)+i] = true
	}
	return len(p), nil
}

func (d *disk) Truncate(size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cached = slices.Clip(d.cached[:size])
	d.stored = slices.Clip(d.stored[:min(int(size), len(d.stored))])
	return nil
}

func (d *disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer clear(d.dirty)
	d.stored = append(d.stored, make([]byte, max(0, len(d.cached)-len(d.stored)))...)
	if d.fails {
		d.fails = false
		return syscall.EIO
	}
	for at := range d.dirty {
		if at < len(d.cached) {
			d.stored[at] = d.cached[at]
		}
	}
	return nil
}

func (d *disk) fail() {
	d.mu.Lock()
	d.fails = true
	d.mu.Unlock()
}

func (d *disk) Close() error { return nil }

func (d *disk) want(t *testing.T, lines uint64) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if n, err := Verify(bytes.NewReader(d.stored), key); n != lines || err != nil {
		t.Errorf("on the disk: %d lines, %v; want %d", n, err, lines)
	}
}

// onDisk returns a new log on a disk.
func onDisk(t *testing.T) (*Log, *disk) {
	t.Helper()
	l, err := Open(filepath.Join(t.TempDir(), "audit.log"), key, Mark{})
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{dirty: make(map[int]bool)}
	l.mu.Lock()
	l.file.Close()
	l.file = d
	l.mu.Unlock()
	t.Cleanup(func() { l.Close() })
	return l, d
}

func record(t *testing.T, l *Log, durable bool) {
	t.Helper()
	if err := l.Record(Event{Verb: "resolve", Agent: "a"}, durable); err != nil {
		t.Fatal(err)
	}
}

// TestSyncThatFailsOnce loses no line that was recorded, though the kernel says once that
// it did.
func TestSyncThatFailsOnce(t *testing.T) {
	t.Run("in the background", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l, d := onDisk(t)
			record(t, l, false)
			d.fail()
			time.Sleep(syncPause * 3 / 2)
			record(t, l, true)
			d.want(t, 2)
			l.Close()
		})
	})
	t.Run("in a durable record", func(t *testing.T) {
		l, d := onDisk(t)
		record(t, l, false)
		d.fail()
		if err := l.Record(Event{Verb: "set"}, true); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		record(t, l, true)
		d.want(t, 2)
	})
	t.Run("and at the first repair again", func(t *testing.T) {
		l, d := onDisk(t)
		record(t, l, false)
		for range 2 {
			d.fail()
			if err := l.Record(Event{Verb: "set"}, true); !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		d.want(t, 1)
	})
}

// TestMuchThatIsNotOnTheDisk bounds what a sync that fails can lose.
func TestMuchThatIsNotOnTheDisk(t *testing.T) {
	path := written(t, 1)
	l, err := Open(path, key, Mark{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 * window / 200 {
		record(t, l, false)
		if len(l.recent) > 2*window {
			t.Fatalf("%d bytes are not on the disk", len(l.recent))
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if l, err = Open(path, key, Mark{}); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("opened again, the log is another, %v", err)
	}
}
