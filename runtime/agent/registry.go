package agent

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
)

// ErrNotFound means that no agent of that name is deployed.
var ErrNotFound = errors.New("agent not found")

// recordName is the file of an agent's folder that names its snapshot. It is replaced by rename, so a
// reader sees one deployment or the other.
const recordName = "agent.json"

// Registry is the folder of deployed agents:
//
//	NAME/agent.json            the record, which names the snapshot in use
//	NAME/snapshots/ID/         the project as it was deployed
//
// It is safe for concurrent use by several processes: a lock on the folder orders the writers.
type Registry struct {
	dir string
}

// NewRegistry returns the registry under the state folder; nothing is made before the first Deploy.
func NewRegistry(state string) *Registry { return &Registry{dir: filepath.Join(state, "agents")} }

// Agent is one deployed agent.
type Agent struct {
	Name     string    `json:"name"`
	Source   string    `json:"source"` // the project's absolute path when it was deployed
	Snap     string    `json:"snapshot"`
	Deployed time.Time `json:"deployed_at"`
	Snapshot
	// Host is where it was deployed, and Digest the SHA-256 of its snapshot in hex, for an agent of a store that hosts
	// share; this host has a copy of it then. Both are "" for an agent of this host alone.
	Host   string `json:"host,omitempty"`
	Digest string `json:"digest,omitempty"`
	// Elsewhere is true when another host than this, or somebody from afar, has deployed it.
	Elsewhere bool `json:"-"`
	dir       string
}

// Dir is the snapshot's folder: the project as it was deployed.
func (a *Agent) Dir() string { return filepath.Join(a.dir, "snapshots", a.Snap) }

// Manifest reads the snapshot's superserve.yaml. Its name is the agent's, whatever the file says.
func (a *Agent) Manifest() (*Manifest, error) {
	m, err := Load(a.Dir())
	if err != nil {
		return nil, fmt.Errorf("agent %q: %w", a.Name, err)
	}
	m.Name = a.Name
	return m, nil
}

// Hold keeps the snapshot from being removed by a later deployment until the file is closed, which the
// end of the process does too.
func (a *Agent) Hold() (*os.File, error) {
	f, err := os.Open(a.Dir())
	if err != nil {
		return nil, fmt.Errorf("agent %q: %w", a.Name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		f.Close()
		return nil, fmt.Errorf("agent %q: hold its snapshot: %w", a.Name, err)
	}
	// A deployment may have removed it between the opening and the lock.
	if _, err := os.Stat(filepath.Join(a.Dir(), ManifestName)); err != nil {
		f.Close()
		return nil, fmt.Errorf("agent %q was deployed again meanwhile: %w", a.Name, err)
	}
	return f, nil
}

// Deploy copies the project at dir and makes the copy the agent's files, all or nothing. A run that
// goes on keeps the files it began with.
func (r *Registry) Deploy(ctx context.Context, name, dir string, ignore []string) (*Agent, error) {
	if err := api.CheckAgent(name); err != nil {
		return nil, err
	}
	ig, err := NewIgnore(ignore)
	if err != nil {
		return nil, err
	}
	source, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("deploy: %w", err)
	}
	unlock, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	a := &Agent{Name: name, Source: source, Snap: newSnapshotID(), Deployed: time.Now().UTC(), dir: filepath.Join(r.dir, name)}
	err = a.fill(func(to *os.Root) (Snapshot, error) {
		from, err := os.OpenRoot(a.Source)
		if err != nil {
			return Snapshot{}, err
		}
		defer from.Close()
		return snapshot(ctx, from, folder{to}, ig)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("deploy %q: %w", name, err), os.RemoveAll(a.Dir()))
	}
	a.sweep()
	return a, nil
}

func newSnapshotID() string {
	var random [8]byte
	rand.Read(random[:])
	return fmt.Sprintf("%s-%x", time.Now().UTC().Format("20060102T150405"), random)
}

// fill puts the files there, makes them durable and only then writes the record that names them.
func (a *Agent) fill(files func(to *os.Root) (Snapshot, error)) error {
	if err := os.MkdirAll(a.Dir(), 0o755); err != nil {
		return err
	}
	to, err := os.OpenRoot(a.Dir())
	if err != nil {
		return err
	}
	defer to.Close()
	if a.Snapshot, err = files(to); err != nil {
		return err
	}
	if err := syncAll(a.dir); err != nil {
		return err
	}
	return writeRecord(filepath.Join(a.dir, recordName), a)
}

// syncAll flushes the file system of dir: one call in place of one a file.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}

// writeRecord replaces a JSON file whole: written, flushed, renamed, and the folder flushed too,
// without which a power cut can undo the rename.
func writeRecord(name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// sweep removes the agent's other snapshots that no run holds. What cannot be removed now is removed
// by the next deployment.
func (a *Agent) sweep() {
	halves, _ := filepath.Glob(filepath.Join(a.dir, "."+recordName+".*")) // of one who was killed
	for _, half := range halves {
		os.Remove(half)
	}
	entries, err := os.ReadDir(filepath.Join(a.dir, "snapshots"))
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Name() != a.Snap {
			removeUnheld(filepath.Join(a.dir, "snapshots", e.Name()))
		}
	}
}

func removeUnheld(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Get returns the agent of that name. Errors: ErrNotFound.
func (r *Registry) Get(name string) (*Agent, error) {
	if api.CheckAgent(name) != nil {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, name)
	}
	dir := filepath.Join(r.dir, name)
	text, err := os.ReadFile(filepath.Join(dir, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, name)
	}
	if err != nil {
		return nil, fmt.Errorf("agent %q: %w", name, err)
	}
	a := &Agent{dir: dir}
	if err := json.Unmarshal(text, a); err != nil || a.Name != name || a.Snap != filepath.Base(a.Snap) {
		return nil, fmt.Errorf("agent %q: its record is damaged: deploy it again", name)
	}
	return a, nil
}

// List returns every deployed agent, by name. A damaged record does not hide the others: it comes back
// in the error, beside them.
func (r *Registry) List() ([]*Agent, error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list agents: %w", err)
	}
	var agents []*Agent
	var damaged error
	for _, e := range entries {
		a, err := r.Get(e.Name())
		switch {
		case err == nil:
			agents = append(agents, a)
		case !errors.Is(err, ErrNotFound):
			damaged = errors.Join(damaged, err)
		}
	}
	sort.Slice(agents, func(i, j int) bool { return agents[i].Name < agents[j].Name })
	return agents, damaged
}

// Delete removes the agent and the snapshots that no run holds. Errors: ErrNotFound.
func (r *Registry) Delete(name string) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	a, err := r.Get(name)
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(a.dir, recordName)); err != nil {
		return fmt.Errorf("delete agent %q: %w", name, err)
	}
	a.Snap = ""
	a.sweep()
	os.Remove(filepath.Join(a.dir, "snapshots")) // both fail while a run holds a snapshot; the next
	os.Remove(a.dir)                             // deployment of the name sweeps what is left
	return nil
}

// lock makes the registry's folder and orders its writers across processes.
func (r *Registry) lock() (unlock func(), err error) {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, fmt.Errorf("agents' folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(r.dir, ".lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("agents' folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the agents' folder: %w", err)
	}
	return func() { f.Close() }, nil
}
