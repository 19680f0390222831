// Package audit is secretd's own record of who asked for what and what was answered.
//
// It is a file of JSON lines, each of which carries a number and a keyed hash over
// itself and the line before, so that a line cannot be changed, removed or put in
// without the key. Cutting off the end leaves a shorter file that still verifies;
// only a copy elsewhere shows that.
package audit

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/superserve/superserve/secretd/failpoint"
	"github.com/superserve/superserve/secretd/private"
)

// maxLine is the longest line that is written and read back, in bytes.
const maxLine = 64 << 10

// syncPause is how long a record that need not be durable at once may wait for the
// disk.
const syncPause = time.Second

// window is how many bytes may be with the kernel and not on the disk: what has to be
// written anew when the kernel lost it.
const window = 1 << 20

// Event is one decision. It never holds a value or a placeholder.
type Event struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	// Verb is set, delete, bind, grant, resume, expose, resolve, end, rekey, backup, restore, accept
	// (of a store that was rolled back), deploy or undeploy.
	Verb  string `json:"verb"`
	Agent string `json:"agent,omitempty"`
	Run   string `json:"run,omitempty"`
	// Names of secrets.
	Names []string `json:"names,omitempty"`
	// Digest is the SHA-256, in hex, of a snapshot that was deployed or taken away.
	Digest string `json:"digest,omitempty"`
	Host   string `json:"host,omitempty"`
	Port   uint16 `json:"port,omitempty"`
	Use    string `json:"use,omitempty"`
	// Refused says why the answer was no; "" means that it was yes.
	Refused string `json:"refused,omitempty"`
	// UID and PID are the caller's as the kernel gave them when it connected; nil
	// for questions that come over a grant.
	UID *uint32 `json:"uid,omitempty"`
	PID int32   `json:"pid,omitempty"`
	// Remote is who called from another host: the name of the certificate and the address.
	Remote string `json:"remote,omitempty"`
	// Chain is the keyed hash, in hex.
	Chain string `json:"chain,omitempty"`
}

// Log appends events to a file. It is safe for concurrent use.
type Log struct {
	key   []byte
	wait  sync.WaitGroup
	ended chan struct{}
	once  sync.Once
	err   error // of Close

	mu    sync.Mutex
	file  file
	size  int64
	seq   uint64
	chain []byte
	// recent is what was written since the last good sync: after a bad one the kernel may
	// have dropped it from the file, which it says once (fsync(2), since Linux 4.13).
	recent []byte
	doubt  bool // recent has to be written anew
	// durable is the last line that is known to be on the disk.
	durable Mark
}

// file is what a log needs of its file.
type file interface {
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	Close() error
}

// Mark is a place in a log: a line that was once durable.
type Mark struct {
	Seq   uint64 `json:"seq"`
	Chain []byte `json:"chain"`
}

// Open opens or makes the log at path and verifies it by key, which stays the
// caller's and is only read. A last line that a power cut left unfinished is
// removed; any other damage is ErrChanged, and a log that ends before since is ErrCut.
func Open(path string, key []byte, since Mark) (*Log, error) {
	f, err := private.Open(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	end, err := verify(f, key, since)
	if err == nil {
		err = settle(f, end.size)
	}
	if err == nil && end.size == 0 {
		err = private.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open audit log %q: %w", path, err)
	}
	l := &Log{key: key, file: f, size: end.size, seq: end.seq, chain: end.chain, durable: since, ended: make(chan struct{})}
	l.wait.Go(l.syncer)
	return l, nil
}

// settle cuts off what follows size and has what may be with the kernel alone written
// anew: whoever wrote it may have died after a sync that failed.
func settle(f *os.File, size int64) error {
	if err := f.Truncate(size); err != nil {
		return err
	}
	from := max(0, size-2*window)
	last := make([]byte, size-from)
	if _, err := f.ReadAt(last, from); err != nil {
		return err
	}
	if _, err := f.WriteAt(last, from); err != nil {
		return err
	}
	return f.Sync()
}

// Record appends an event: Seq, Time and Chain are set here. When it returns nil the
// line is with the kernel, and with durable also on the disk; without it follows
// within a second. When it returns an error nothing was recorded, and the answer to
// whatever was asked has to be no.
func (l *Log) Record(e Event, durable bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Seq, e.Time = l.seq+1, time.Now().UTC()
	line, chain, err := encode(e, l.key, l.chain)
	if err != nil {
		return err
	}
	if err := l.append(line, durable || len(l.recent) > window); err != nil {
		return fmt.Errorf("record %s: %w", e.Verb, err)
	}
	l.seq, l.chain = e.Seq, chain
	if durable {
		l.durable = Mark{Seq: l.seq, Chain: chain}
	}
	return nil
}

// append writes a line, or nothing. mu is held.
func (l *Log) append(line []byte, durable bool) error {
	if err := l.repair(); err != nil {
		return err
	}
	if n, err := l.file.WriteAt(line, l.size); err != nil {
		// Half a line would end the chain for every later reader.
		if n > 0 {
			err = errors.Join(err, l.rewind())
		}
		return err
	}
	failpoint.Hit("audit written")
	if durable {
		if err := l.file.Sync(); err != nil {
			l.doubt = true
			return errors.Join(err, l.rewind())
		}
		l.recent = l.recent[:0]
	} else {
		l.recent = append(l.recent, line...)
	}
	l.size += int64(len(line))
	return nil
}

// rewind takes back a line. mu is held.
func (l *Log) rewind() error {
	err := l.file.Truncate(l.size)
	if err != nil {
		l.doubt = true
	}
	return err
}

// repair has everything on the disk that was recorded, if that is in doubt: until then
// nothing more is. mu is held.
func (l *Log) repair() error {
	if !l.doubt {
		return nil
	}
	if err := l.rewind(); err != nil {
		return fmt.Errorf("repair the audit log: %w", err)
	}
	if _, err := l.file.WriteAt(l.recent, l.size-int64(len(l.recent))); err != nil {
		return fmt.Errorf("repair the audit log: %w", err)
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("repair the audit log: %w", err)
	}
	l.recent, l.doubt = l.recent[:0], false
	return nil
}

// sync brings everything to the disk. mu is held.
func (l *Log) sync() error {
	if l.doubt || len(l.recent) == 0 {
		return l.repair()
	}
	if err := l.file.Sync(); err != nil {
		l.doubt = true
		return err
	}
	l.recent = l.recent[:0]
	return nil
}

func encode(e Event, key, before []byte) (line, chain []byte, err error) {
	e.Chain = ""
	body, err := json.Marshal(e)
	if err != nil {
		return nil, nil, fmt.Errorf("record %s: %w", e.Verb, err)
	}
	chain = link(key, before, body)
	line = append(body[:len(body)-1], `,"chain":"`...)
	line = append(hex.AppendEncode(line, chain), "\"}\n"...)
	if len(line) > maxLine {
		return nil, nil, fmt.Errorf("record %s: the line would have %d bytes, more than %d", e.Verb, len(line), maxLine)
	}
	return line, chain, nil
}

func link(key, before, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(before)
	h.Write(body)
	return h.Sum(nil)
}

// syncer brings what was recorded without durable to the disk.
func (l *Log) syncer() {
	tick := time.NewTicker(syncPause)
	defer tick.Stop()
	for {
		select {
		case <-l.ended:
			return
		case <-tick.C:
			l.mu.Lock()
			_ = l.sync() // an error is for the next record, which does not come to pass
			l.mu.Unlock()
		}
	}
}

// Durable returns the last line that is known to be on the disk.
func (l *Log) Durable() Mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// Close brings everything to the disk and closes the file. A second Close does
// nothing; a Record after it is an error.
func (l *Log) Close() error {
	l.once.Do(func() {
		close(l.ended)
		l.wait.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.err = errors.Join(l.sync(), l.file.Close())
	})
	return l.err
}

// The reasons not to trust a log.
var (
	// ErrChanged means that a log was tampered with or damaged.
	ErrChanged = errors.New("audit log was changed")
	// ErrCut means that lines which were durable once are gone from the end.
	ErrCut = errors.New("audit log was cut: its last lines are missing")
)

// Verify reads a log and checks every line by key. It returns the number of events.
func Verify(r io.Reader, key []byte) (uint64, error) {
	end, err := verify(r, key, Mark{})
	return end.seq, err
}

// end is the state after the last whole line.
type end struct {
	seq   uint64
	chain []byte
	size  int64
}

func verify(r io.Reader, key []byte, since Mark) (end, error) {
	var e end
	in := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) && e.seq < since.Seq {
			return e, fmt.Errorf("%w: it ends with line %d, and line %d was written", ErrCut, e.seq, since.Seq)
		}
		if errors.Is(err, io.EOF) {
			return e, nil // what is left is a line without its end, or nothing
		}
		if err != nil {
			return e, fmt.Errorf("line %d: %w", e.seq+1, errors.Join(ErrChanged, err))
		}
		chain, ok := check(line, key, e)
		if !ok || e.seq+1 == since.Seq && !hmac.Equal(chain, since.Chain) {
			return e, fmt.Errorf("line %d: %w", e.seq+1, ErrChanged)
		}
		e = end{seq: e.seq + 1, chain: chain, size: e.size + int64(len(line))}
	}
}

func check(line, key []byte, e end) ([]byte, bool) {
	const tail = len(`,"chain":""}`+"\n") + 2*sha256.Size
	if len(line) <= tail {
		return nil, false
	}
	body := append(bytes.Clone(line[:len(line)-tail]), '}')
	var event Event
	if err := json.Unmarshal(line, &event); err != nil || event.Seq != e.seq+1 {
		return nil, false
	}
	got, err := hex.DecodeString(event.Chain)
	want := link(key, e.chain, body)
	return want, err == nil && hmac.Equal(got, want)
}
