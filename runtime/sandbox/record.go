package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/runtime/bundle"
	"github.com/superserve/superserve/runtime/cgroup"
)

// Files of a run's directory, State/runs/ID.
const (
	recordFile = "run.json"
	lockFile   = "lock" // locked (flock(2)) by the supervisor as long as it lives
	stdoutFile = "stdout.log"
	stderrFile = "stderr.log"
	holdFile   = "hold"
)

// keptRuns is how many ended runs Sweep leaves, for their logs.
const keptRuns = 100

// Record is what a run's directory says about it.
type Record struct {
	ID         string    `json:"id"`
	Agent      string    `json:"agent"`
	Command    []string  `json:"command"`
	Supervisor int       `json:"supervisor"`        // pid of the process that called Start
	Sandbox    int       `json:"sandbox"`           // pid of the container's runsc, 0 before it started
	Base       string    `json:"base"`              // where the bundle is mounted in that process's mount namespace
	Started    time.Time `json:"started"`           //
	Ended      time.Time `json:"ended,omitzero"`    // zero while it runs
	Result     *Result   `json:"result,omitzero"`   // nil while it runs, and if the supervisor was killed
	Logs       bool      `json:"logs"`              // stdout.log and stderr.log are there
	Dir        string    `json:"dir,omitempty"`     // the project on the host
	Changes    bool      `json:"changes,omitempty"` // what the agent changed of it is in ChangesDir

	// Running says that the supervisor lives. It is found out by List and not stored.
	Running bool `json:"-"`
}

// runsDir is where the directories of runs are.
func runsDir(state string) string { return filepath.Join(state, "runs") }

// RunDir is the directory of one run.
func RunDir(state, id string) string { return filepath.Join(runsDir(state), id) }

// ChangesDir is where the changes are of a run with Config.Changes: an upper directory of overlayfs, of plain files and
// whiteouts.
func ChangesDir(state, id string) string {
	return filepath.Join(changesDir(RunDir(state, id)), bundle.UpperDir)
}

func changesDir(runDir string) string { return filepath.Join(runDir, "changes") }

// runDir is the directory of a run that this process supervises.
type runDir struct {
	path    string
	lock    *os.File
	rec     Record
	notices *noticeLog
}

// newRunDir makes and locks the directory.
func newRunDir(state string, rec Record) (*runDir, error) {
	d := &runDir{path: RunDir(state, rec.ID), rec: rec}
	// 0711 up to here: gVisor's file in it is opened by descriptor, but the way to it must exist.
	if err := os.MkdirAll(runsDir(state), 0o711); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	// Under a name that Sweep passes over until it is locked.
	temp := filepath.Join(runsDir(state), "."+rec.ID)
	if err := os.Mkdir(temp, 0o700); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	lock, err := lockDir(temp)
	if err == nil {
		d.lock = lock
		err = os.Rename(temp, d.path)
	}
	if err == nil {
		d.notices, err = openNotices(d.path)
	}
	if err == nil {
		err = d.write()
	}
	if err != nil {
		os.RemoveAll(temp)
		d.remove()
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	return d, nil
}

// lockDir takes the lock of a run's directory. The error wraps unix.EWOULDBLOCK when its supervisor lives.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %q: %w", f.Name(), err)
	}
	return f, nil
}

// write stores the record; readers see the old one or the new one.
func (d *runDir) write() error { return writeRecord(d.path, d.rec) }

func writeRecord(dir string, r Record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	temp := filepath.Join(dir, recordFile+".new")
	if err := os.WriteFile(temp, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(dir, recordFile))
}

// logs creates the files for copies of the output.
func (d *runDir) logs() (out, err *os.File, e error) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if out, e = os.OpenFile(filepath.Join(d.path, stdoutFile), flags, 0o600); e != nil {
		return nil, nil, e
	}
	if err, e = os.OpenFile(filepath.Join(d.path, stderrFile), flags, 0o600); e != nil {
		out.Close()
		return nil, nil, e
	}
	return out, err, nil
}

// end stores how the run ended, or removes the directory if nobody asked to keep it.
func (d *runDir) end(r Result) error {
	defer d.lock.Close()
	defer d.notices.file.Close()
	if !d.rec.Logs {
		return d.remove()
	}
	strip(d.path)
	if d.rec.Changes {
		bundle.EndChanges(changesDir(d.path)) // what it leaves goes with the directory
	}
	d.rec.Ended, d.rec.Result, d.rec.Sandbox = time.Now(), &r, 0
	return d.write()
}

// strip takes out of a run's directory what only a living run has. An error means that it had none.
func strip(dir string) {
	for _, name := range []string{holdFile, controlFile, networkFile, networkFile + ".new", recordFile + ".new"} {
		os.Remove(filepath.Join(dir, name))
	}
}

func (d *runDir) remove() error {
	err := os.RemoveAll(d.path)
	if d.lock != nil {
		d.lock.Close()
	}
	return err
}

// List returns the records under state, oldest first. Directories that are no run's are passed over.
func List(state string) ([]Record, error) {
	entries, err := os.ReadDir(runsDir(state))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	var out []Record
	for _, e := range entries {
		if r, err := readRecord(RunDir(state, e.Name())); err == nil && r.ID == e.Name() {
			out = append(out, r)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Started.Before(out[j].Started) })
	return out, nil
}

func readRecord(dir string) (Record, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return Record{}, err
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("read %q: %w", filepath.Join(dir, recordFile), err)
	}
	if !r.Ended.IsZero() {
		return r, nil // and a lock on it would be another process's Sweep
	}
	lock, err := lockDir(dir)
	if errors.Is(err, unix.EWOULDBLOCK) {
		r.Running = true
		return r, nil
	}
	if err == nil {
		lock.Close()
	}
	return r, err
}

// Sweep removes what supervisors left that were killed: control groups with the processes in them, and directories.
// Mounts need no sweeping, for they were only in the namespace of the sandbox. Of ended runs that were to be kept, the
// newest 100 stay. Start sweeps too; it is safe beside running sandboxes, and concurrently with itself.
func Sweep(state string) error {
	entries, err := os.ReadDir(runsDir(state))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep runs: %w", err)
	}
	dead := make(map[string]*os.File)
	defer func() {
		for _, lock := range dead {
			lock.Close()
		}
	}()
	for _, e := range entries {
		if e.Name()[0] == '.' && !stale(e) {
			continue // another process is just making it
		}
		if lock, err := lockDir(RunDir(state, e.Name())); err == nil {
			dead[e.Name()] = lock
		}
	}
	errs := []error{sweepAudit(state, dead)}
	if len(dead) == 0 {
		return errs[0]
	}
	if err := sweepGroups(dead); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, sweepDirs(state, dead))...)
}

// stale reports whether a directory is too old to be one that is just being made.
func stale(e fs.DirEntry) bool {
	info, err := e.Info()
	return err == nil && time.Since(info.ModTime()) > time.Minute
}

// sweepGroups removes the control groups of dead runs. One that it does not know belongs to another state directory.
func sweepGroups(dead map[string]*os.File) error {
	h, err := cgroup.Find()
	if err != nil {
		return fmt.Errorf("sweep control groups: %w", err)
	}
	return cgroup.Sweep(h, func(name string) bool { return dead[strings.TrimSuffix(name, proxyGroup)] == nil })
}

func sweepDirs(state string, dead map[string]*os.File) error {
	var kept []Record
	var errs []error
	for id := range dead {
		r, err := readDead(RunDir(state, id))
		if err != nil || !r.Logs {
			errs = append(errs, os.RemoveAll(RunDir(state, id)))
			continue
		}
		if r.Ended.IsZero() {
			r.Ended = time.Now()
			r.Result = &Result{Code: codeFailed, Reason: ReasonLost}
			strip(RunDir(state, id))
			errs = append(errs, writeRecord(RunDir(state, id), r))
		}
		kept = append(kept, r)
	}
	sort.Slice(kept, func(i, j int) bool { return kept[i].Ended.After(kept[j].Ended) })
	for _, r := range kept[min(keptRuns, len(kept)):] {
		errs = append(errs, os.RemoveAll(RunDir(state, r.ID)))
	}
	return errors.Join(errs...)
}

// readDead reads a record whose lock the caller holds.
func readDead(dir string) (Record, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return Record{}, err
	}
	var r Record
	return r, json.Unmarshal(data, &r)
}
