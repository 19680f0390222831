package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/journal"
)

// sealPause is the time between two seals of a log that grows: for so long a cut of its end would not show.
const sealPause = 5 * time.Second

// secretdSeals is the list of the seals of secretd's own log, beside those of the runs.
const secretdSeals = "secretd.seals"

// auditDir is where the logs are, their key and the list of seals. Only root enters it.
func auditDir(state string) string { return filepath.Join(state, "audit") }

// AuditLog is what the audit directory holds of one run, by paths.
type AuditLog struct {
	Run       string
	Log, Tail string // the tail is there while the run is, and after a kill of the supervisor until the next Sweep
}

// AuditDir returns the directory of the audit logs: one for each run, the seals, the key. See package journal.
func AuditDir(state string) string { return auditDir(state) }

// SecretdSeals returns the path of secretd's own audit log and of the list of its seals.
func SecretdSeals(state string) (log, list string) {
	return filepath.Join(state, "secretd", "audit.log"), filepath.Join(auditDir(state), secretdSeals)
}

// AuditLogs returns the logs under state, in the order in which their runs began.
func AuditLogs(state string) ([]AuditLog, error) {
	paths, err := filepath.Glob(filepath.Join(auditDir(state), "*"+journal.LogSuffix)) // sorted, and the names begin with the time
	if err != nil {
		return nil, err
	}
	var out []AuditLog
	for _, p := range paths {
		if run := runOf(p); run != "" {
			out = append(out, AuditLog{Run: run, Log: p, Tail: strings.TrimSuffix(p, journal.LogSuffix) + journal.TailSuffix})
		}
	}
	return out, nil
}

// runOf returns the run whose log or tail has that path, "" if it is none.
func runOf(path string) string {
	name := filepath.Base(path)
	_, run, ok := strings.Cut(strings.TrimSuffix(name, filepath.Ext(name)), "-")
	if !ok {
		return ""
	}
	return run
}

// auditLog is the log of a run that this process supervises. It is not one file for all runs: whoever breaks a
// proxy could write into that. The proxy numbers and tags the lines; this process, which holds the keys and no
// other part of the chain than its beginning, seals what it finds in the file.
type auditLog struct {
	file, tail *os.File // the proxy's
	path       string
	tailPath   string

	mu     sync.Mutex
	sealer *journal.Sealer
}

func openAudit(state string, rec Record) (*auditLog, error) {
	dir := auditDir(state)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	key, err := journal.OpenKey(dir)
	if err != nil {
		return nil, err
	}
	base := filepath.Join(dir, rec.Started.UTC().Format("20060102T150405Z")+"-"+rec.ID)
	a := &auditLog{path: base + journal.LogSuffix, tailPath: base + journal.TailSuffix}
	a.sealer = journal.NewSealer(key, a.path, rec.Agent)
	a.tail, err = journal.CreateTail(a.tailPath, key.Chain(filepath.Base(a.path)))
	if err == nil {
		a.file, err = os.OpenFile(a.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	}
	if err != nil {
		a.handOver()
		os.Remove(a.tailPath)
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	return a, nil
}

// handOver closes what the proxy has its own copy of.
func (a *auditLog) handOver() {
	for _, f := range []*os.File{a.file, a.tail} {
		if f != nil {
			f.Close()
		}
	}
}

func (a *auditLog) seal(end bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sealer.Seal(end)
}

// sealAudit seals the log every now and then until the function that it returns is called, which waits.
func (s *Sandbox) sealAudit() (stop func()) {
	done := make(chan struct{})
	var sealing sync.WaitGroup
	sealing.Go(func() {
		tick := time.NewTicker(sealPause)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if err := s.audit.seal(false); err != nil {
					s.cfg.Log.Error("seal audit log", zap.Error(err))
				}
			}
		}
	})
	return func() { close(done); sealing.Wait() }
}

// endAudit takes over what the dead proxy left and seals the log for good. The log of a run whose proxy never was
// is removed. Failure is no failure of the run: the next Sweep tries again.
func (s *Sandbox) endAudit() {
	switch {
	case s.audit == nil:
		return
	case s.proxy == nil:
		os.Remove(s.audit.path)
		os.Remove(s.audit.tailPath)
		return
	}
	err := journal.Settle(s.audit.path, s.audit.tailPath, func() error { return s.audit.seal(true) })
	if err = errors.Join(err, sealSecretd(s.cfg.State)); err != nil {
		s.cfg.Log.Error("end audit log", zap.Error(err))
	}
}

// sealSecretd seals what secretd's own log has grown by. Its lines are chained with a key of secretd's; what a seal
// adds is that another process, with another key, says how many there were.
func sealSecretd(state string) error {
	log, list := SecretdSeals(state)
	if _, err := os.Stat(log); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	key, err := journal.OpenKey(auditDir(state))
	if err != nil {
		return err
	}
	s, err := journal.ResumeSealer(key, log, "", list)
	if err != nil {
		return err
	}
	return s.Seal(false)
}

// sweepAudit ends the logs whose supervisors were killed. Dead are the runs whose locks the caller holds; a run
// without a directory is dead too.
func sweepAudit(state string, dead map[string]*os.File) error {
	tails, err := filepath.Glob(filepath.Join(auditDir(state), "*"+journal.TailSuffix))
	if err != nil || len(tails) == 0 {
		return err
	}
	key, err := journal.OpenKey(auditDir(state))
	if err != nil {
		return err
	}
	var errs []error
	for _, tail := range tails {
		run := runOf(tail)
		if _, err := os.Stat(RunDir(state, run)); run == "" || dead[run] == nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		errs = append(errs, settleDead(key, state, run, tail))
	}
	return errors.Join(errs...)
}

func settleDead(key *journal.Key, state, run, tail string) error {
	log := strings.TrimSuffix(tail, journal.TailSuffix) + journal.LogSuffix
	if _, err := os.Stat(log); errors.Is(err, fs.ErrNotExist) {
		return os.Remove(tail) // killed between making the one and the other
	}
	rec, _ := readDead(RunDir(state, run)) // without one the seal names no agent
	return journal.Settle(log, tail, func() error {
		s, err := journal.ResumeSealer(key, log, rec.Agent, filepath.Join(auditDir(state), journal.SealsFile))
		if err != nil {
			return err
		}
		return s.Seal(true)
	})
}
