package journal

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Suffixes of the files of one log.
const (
	LogSuffix  = ".jsonl"
	TailSuffix = ".tail"
)

// Report is what Verify found out about one log.
type Report struct {
	Log    string // file name
	Agent  string // as its seals say, "" without any
	Lines  uint64 // good lines
	Sealed uint64 // of which a seal speaks
	Seals  int
	Ended  bool   // the last seal says that nothing follows
	Pruned bool   // the log was taken away by Prune, with Sealed lines
	Fault  string // the first thing that is wrong, "" when all is well
}

// Findings is what Verify found out about a directory.
type Findings struct {
	Logs  []Report // in the order of their names
	Seals uint64   // good seals in the list
	Head  string   // names the list up to its last good seal; keep a copy elsewhere
	Fault string   // of the list itself
}

// Good reports whether nothing is wrong.
func (f Findings) Good() bool {
	return f.Fault == "" && !slices.ContainsFunc(f.Logs, func(r Report) bool { return r.Fault != "" })
}

// Has reports whether the list of seals in dir has one of that Head: whether it is
// the list of which a copy was kept, grown.
func Has(dir string, key *Key, head string) (bool, error) {
	s, err := readSeals(filepath.Join(dir, SealsFile), key.Public())
	return slices.Contains(s.heads, head), err
}

// Verify checks the logs in dir for which pick returns true (nil: all), those of
// which only a seal is left too. An error means that it could not look.
func Verify(dir string, key *Key, pick func(log, agent string) bool) (Findings, error) {
	var found Findings
	list, err := readSeals(filepath.Join(dir, SealsFile), key.Public())
	if err != nil {
		return found, err
	}
	if found.Seals = uint64(len(list.all)); found.Seals > 0 {
		found.Head = list.heads[found.Seals-1]
	}
	if list.bad != 0 {
		found.Fault = fmt.Sprintf("seal %d was changed, cut or put elsewhere", list.bad)
	}
	of := map[string][]Seal{}
	for _, s := range list.all {
		of[s.Log] = append(of[s.Log], s)
	}
	names, err := logs(dir, of)
	if err != nil {
		return found, err
	}
	for _, name := range names {
		r := Report{Log: name}
		if seals := of[name]; len(seals) > 0 {
			r.Agent = seals[0].Agent
		}
		if pick != nil && !pick(name, r.Agent) {
			continue
		}
		if err := r.verify(dir, key.Chain(name), of[name]); err != nil {
			return found, err
		}
		found.Logs = append(found.Logs, r)
	}
	return found, nil
}

// logs names the logs that are there, and those that were.
func logs(dir string, sealed map[string][]Seal) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*"+LogSuffix))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range paths {
		names = append(names, filepath.Base(p))
	}
	for name := range sealed {
		if strings.HasSuffix(name, LogSuffix) && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (r *Report) verify(dir string, key [KeySize]byte, seals []Seal) error {
	f, err := os.Open(filepath.Join(dir, r.Log))
	if n := len(seals); n > 0 && seals[n-1].Pruned {
		if errors.Is(err, os.ErrNotExist) {
			r.Pruned, r.Ended, r.Seals, r.Sealed = true, true, n, seals[n-1].Lines
			return nil
		}
		seals = seals[:n-1] // killed before the file was gone
	}
	if errors.Is(err, os.ErrNotExist) {
		r.Fault = fmt.Sprintf("the log is gone; it had %d lines", seals[len(seals)-1].Lines)
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	c := &chain{key: key}
	return r.read(f, seals, func(line []byte) string {
		if c.check(line) {
			return ""
		}
		if n, ok := number(line); ok && n != c.seq+1 {
			return fmt.Sprintf("line %d stands where line %d should be", n, c.seq+1)
		}
		return fmt.Sprintf("line %d was changed", c.seq+1)
	})
}

// VerifySealed checks a log that is no journal, at path, against the seals that a list
// has of it: what was sealed is there and unchanged.
func VerifySealed(path, list string, key *Key) (Report, error) {
	r := Report{Log: filepath.Base(path)}
	s, err := readSeals(list, key.Public())
	if err != nil {
		return r, err
	}
	if s.bad != 0 {
		r.Fault = fmt.Sprintf("seal %d was changed, cut or put elsewhere", s.bad)
		return r, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) && len(s.all) > 0 {
		r.Fault = "the log is gone"
		return r, nil
	}
	if err != nil {
		return r, err
	}
	defer f.Close()
	return r, r.read(f, s.all, func([]byte) string { return "" })
}

// read goes through a log and holds it to its seals. check returns what is wrong with
// a line.
func (r *Report) read(f io.Reader, seals []Seal, check func([]byte) string) error {
	in, h, at := bufio.NewReaderSize(f, 64<<10), sha256.New(), int64(0)
	r.Seals = len(seals)
	for r.Fault == "" {
		for len(seals) > 0 && seals[0].Bytes == at {
			if r.hold(seals[0], hex.EncodeToString(h.Sum(nil))); r.Fault != "" {
				return nil
			}
			h.Reset()
			seals = seals[1:]
		}
		if len(seals) > 0 && seals[0].Bytes < at {
			r.hold(seals[0], "") // it ended within a line of today
			return nil
		}
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			break // what is left is being written, or nothing
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if r.Fault = check(line); r.Fault == "" && r.Ended {
			r.Fault = "lines follow the end"
		}
		if r.Fault == "" {
			r.Lines++
		}
		h.Write(line)
		at += int64(len(line))
	}
	if r.Fault == "" && len(seals) > 0 {
		r.Fault = fmt.Sprintf("the end was cut off: %d lines are left of %d", r.Lines, seals[len(seals)-1].Lines)
	}
	return nil
}

// hold compares the log, as far as it was read, with a seal.
func (r *Report) hold(s Seal, digest string) {
	if s.Lines != r.Lines || s.Digest != digest {
		r.Fault = fmt.Sprintf("the first %d lines are not those that were sealed", s.Lines)
		return
	}
	r.Sealed, r.Ended = s.Lines, s.End
}
