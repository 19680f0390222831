package journal

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// SealsFile is the name of the list of seals, in the directory of the logs.
const SealsFile = "seals"

// Seal says how a log was at a time. The list of seals is a chain too: each names a
// digest of the one before.
type Seal struct {
	N     uint64    `json:"n"` // number of the seal in its list, from 1
	Time  time.Time `json:"time"`
	Log   string    `json:"log"`
	Agent string    `json:"agent,omitempty"`
	// Lines and Bytes are those of the log from its beginning; Digest, SHA-256 in
	// hex, is of what came since the last seal of the same log.
	Lines  uint64 `json:"lines"`
	Bytes  int64  `json:"bytes"`
	Digest string `json:"digest"`
	// End is true in the last seal of a log: nothing follows.
	End bool `json:"end,omitempty"`
	// Pruned is true in a seal that says that the log was taken away, see Prune. It has no Digest.
	Pruned bool `json:"pruned,omitempty"`
	// Prev is the Head of the list before this seal, "" for the first.
	Prev string `json:"prev,omitempty"`
}

const sigField = `,"sig":"`

// mark is how far a log has been sealed.
type mark struct {
	lines uint64
	bytes int64
}

// Sealer seals one log. It is not safe for concurrent use; others may seal other logs
// in the same list, in any process.
type Sealer struct {
	key   *Key
	list  string
	log   string // path
	agent string
	mark  mark
	ended bool
	disk  medium
}

// medium is how a Sealer makes sure of what it claims.
type medium interface {
	// sync brings a file, or the names in a directory, to the disk.
	sync(*os.File) error
	// forget has what follows an offset read from the disk.
	forget(f *os.File, from int64)
}

// physical is the kernel's.
type physical struct{}

func (physical) sync(f *os.File) error { return f.Sync() }

// forget drops the kernel's copy: after a sync that failed it has what the disk has not,
// and the next sync succeeds (fsync(2)). It drops what is clean and not mapped.
func (physical) forget(f *os.File, from int64) {
	_ = unix.Fadvise(int(f.Fd()), from&^(1<<16-1), 0, unix.FADV_DONTNEED)
}

// NewSealer returns a Sealer for a new log at path, which was never sealed, with the
// list in the log's directory.
func NewSealer(key *Key, path, agent string) *Sealer {
	return &Sealer{key: key, list: filepath.Join(filepath.Dir(path), SealsFile), log: path, agent: agent, disk: physical{}}
}

// ResumeSealer returns a Sealer that goes on where the seals of a log at path end, in
// a list of any place. It is quick when the last seal of the list is the log's.
func ResumeSealer(key *Key, path, agent, list string) (*Sealer, error) {
	s := &Sealer{key: key, list: list, log: path, agent: agent, disk: physical{}}
	last, err := newest(list, key.Public())
	if err != nil {
		return nil, err
	}
	if s.resume(last); s.mark != (mark{}) {
		return s, nil
	}
	seals, err := readSeals(list, key.Public())
	if err != nil {
		return nil, err
	}
	for _, seal := range seals.all {
		s.resume(seal)
	}
	return s, nil
}

// resume takes over what a seal says, if it is one of this log.
func (s *Sealer) resume(seal Seal) {
	if seal.Log == filepath.Base(s.log) {
		s.mark, s.ended, s.agent = mark{seal.Lines, seal.Bytes}, seal.End, cmp.Or(s.agent, seal.Agent)
	}
}

// newest returns the last seal of a list if it is good, else the zero Seal.
func newest(list string, key ed25519.PublicKey) (Seal, error) {
	f, err := os.Open(list)
	if errors.Is(err, fs.ErrNotExist) {
		return Seal{}, nil
	}
	if err != nil {
		return Seal{}, err
	}
	defer f.Close()
	line, _, err := lastSeal(f)
	if err != nil {
		return Seal{}, err
	}
	seal, ok := checkSeal(line, key)
	if !ok {
		return Seal{}, nil
	}
	return seal, nil
}

// Seal reads what the log has grown by, brings it to the disk and seals it. With end
// set this is the last seal; without, nothing is sealed when nothing has come. A
// second end does nothing.
func (s *Sealer) Seal(end bool) error {
	if s.ended {
		return nil
	}
	f, err := os.Open(s.log)
	if err != nil {
		return fmt.Errorf("seal log: %w", err)
	}
	defer f.Close()
	// Before it is read: what a seal claims must be there after a power cut as well.
	err = s.disk.sync(f)
	if err == nil && s.mark == (mark{}) {
		err = s.syncDir(s.log)
	}
	if err != nil {
		return fmt.Errorf("seal log: %w", err)
	}
	s.disk.forget(f, s.mark.bytes)
	now, digest, err := grown(f, s.mark)
	if err != nil {
		return fmt.Errorf("seal log: %w", err)
	}
	if now == s.mark && !end {
		return nil
	}
	err = s.append(Seal{
		Time: time.Now().UTC(), Log: filepath.Base(s.log), Agent: s.agent,
		Lines: now.lines, Bytes: now.bytes, Digest: digest, End: end,
	})
	if err != nil {
		return fmt.Errorf("seal log: %w", err)
	}
	s.mark, s.ended = now, end
	return nil
}

// grown reads a log from a mark to its last whole line.
func grown(f io.ReaderAt, from mark) (mark, string, error) {
	now, h := from, sha256.New()
	in := bufio.NewReaderSize(io.NewSectionReader(f, from.bytes, 1<<62), 64<<10)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return now, hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return mark{}, "", fmt.Errorf("line %d: %w", now.lines+1, err)
		}
		h.Write(line)
		now.lines++
		now.bytes += int64(len(line))
	}
}

// append adds one seal to the list, alone (flock(2)).
func (s *Sealer) append(seal Seal) error {
	f, err := os.OpenFile(s.list, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	last, size, err := lastSeal(f)
	if err != nil {
		return err
	}
	if last != nil {
		var before Seal
		if err := json.Unmarshal(last, &before); err != nil {
			return errors.New("the list of seals is damaged")
		}
		seal.N, seal.Prev = before.N, head(last)
	}
	seal.N++
	line, err := sign(seal, s.key.signer())
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil { // half a seal, of one who was killed
		return err
	}
	if size == 0 {
		if err := s.syncDir(s.list); err != nil {
			return err
		}
	}
	_, err = f.WriteAt(line, size)
	if err == nil {
		err = s.disk.sync(f)
	}
	if err != nil {
		return errors.Join(err, f.Truncate(size))
	}
	return nil
}

// syncDir makes the name of a file durable.
func (s *Sealer) syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return s.disk.sync(d)
}

// maxSeal is the longest seal, in bytes.
const maxSeal = 2 << 10

func lastSeal(f *os.File) (line []byte, size int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	from := max(0, info.Size()-2*maxSeal)
	p := make([]byte, info.Size()-from)
	if n, err := f.ReadAt(p, from); n < len(p) {
		return nil, 0, err
	}
	end := bytes.LastIndexByte(p, '\n') + 1
	if end == 0 {
		if from > 0 {
			return nil, 0, errors.New("the list of seals is damaged")
		}
		return nil, 0, nil
	}
	return p[bytes.LastIndexByte(p[:end-1], '\n')+1 : end], from + int64(end), nil
}

func sign(seal Seal, key ed25519.PrivateKey) ([]byte, error) {
	body, err := json.Marshal(seal)
	if err != nil {
		return nil, err
	}
	body = body[:len(body)-1]
	sig := ed25519.Sign(key, body)
	line := append(body, sigField...)
	line = base64.RawStdEncoding.AppendEncode(line, sig)
	if line = append(line, lineEnd...); len(line) > maxSeal {
		return nil, errors.New("the seal is too long")
	}
	return line, nil
}

// head is the digest by which a seal is named.
func head(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:16])
}

// seals is a list that was checked.
type seals struct {
	all   []Seal
	heads []string // of each
	bad   uint64   // number of the first seal that does not verify, 0 for none
}

// readSeals reads a list up to the first seal that is not good. No list is an empty one.
func readSeals(path string, key ed25519.PublicKey) (seals, error) {
	var s seals
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, maxSeal)
	prev := ""
	for n := uint64(1); ; n++ {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		seal, ok := checkSeal(line, key)
		if err != nil || !ok || seal.N != n || seal.Prev != prev {
			s.bad = n
			return s, nil
		}
		prev = head(line)
		s.all, s.heads = append(s.all, seal), append(s.heads, prev)
	}
}

func checkSeal(line []byte, key ed25519.PublicKey) (seal Seal, ok bool) {
	tail := len(sigField) + base64.RawStdEncoding.EncodedLen(ed25519.SignatureSize) + len(lineEnd)
	at := len(line) - tail
	if at < 2 || string(line[at:at+len(sigField)]) != sigField || string(line[len(line)-len(lineEnd):]) != lineEnd {
		return seal, false
	}
	sig, err := base64.RawStdEncoding.DecodeString(string(line[at+len(sigField) : len(line)-len(lineEnd)]))
	if err != nil || !ed25519.Verify(key, line[:at], sig) {
		return seal, false
	}
	return seal, json.Unmarshal(line, &seal) == nil
}
