package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/superserve/superserve/secretd/api"
)

// An agent of a store that hosts share is copied to STATE/agents by the first run of it on a host. The copy is known by
// the digest of the package that it came from.

// Describe returns what is said of a package with its deployment.
func (p *Package) Describe(m *Manifest, source string) api.Deployment {
	d := api.Deployment{
		Digest: p.Digest, Size: p.Size, Sums: p.Sums, Files: p.Files, Bytes: p.Bytes,
		Source: source, Command: m.Command.Vector(nil), Secrets: []string{},
	}
	for _, s := range m.Secrets {
		d.Secrets = append(d.Secrets, s.Name)
	}
	return d
}

// Copy returns this host's copy of an agent of a shared store, nil when it has none, or one of another snapshot.
func (r *Registry) Copy(shared api.Agent) *Agent {
	a, err := r.Get(shared.Name)
	if err != nil || a.Digest == "" || a.Digest != shared.Digest {
		return nil // what is damaged is fetched anew
	}
	a.adopt(shared)
	return a
}

// adopt takes what the store says of the agent, which may have changed where the files have not.
func (a *Agent) adopt(shared api.Agent) {
	a.Source, a.Host, a.Digest, a.Deployed, a.Elsewhere = shared.Source, shared.Host, shared.Digest, shared.Deployed, !shared.Here
}

// Fetch makes this host's copy of an agent of a shared store. fetch writes the package, of which nothing is used before
// its digest was found to be the right one. A run that goes on keeps the files it began with.
func (r *Registry) Fetch(ctx context.Context, shared api.Agent, fetch func(to io.WriterAt) error) (*Agent, error) {
	if err := api.CheckAgent(shared.Name); err != nil {
		return nil, err
	}
	unlock, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if a := r.Copy(shared); a != nil {
		return a, nil // another run has fetched it meanwhile
	}
	file, err := nameless(r.dir)
	if err != nil {
		return nil, fmt.Errorf("fetch agent %q: %w", shared.Name, err)
	}
	defer file.Close()
	if err := fetch(file); err != nil {
		return nil, err
	}
	if err := checkDigest(file, shared); err != nil {
		return nil, fmt.Errorf("fetch agent %q: %w", shared.Name, err)
	}
	a := &Agent{Name: shared.Name, Snap: newSnapshotID(), dir: filepath.Join(r.dir, shared.Name)}
	a.adopt(shared)
	err = a.fill(func(to *os.Root) (Snapshot, error) { return unpack(ctx, io.NewSectionReader(file, 0, shared.Size), to) })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fetch agent %q: %w", shared.Name, err), os.RemoveAll(a.Dir()))
	}
	a.sweep()
	return a, nil
}

func checkDigest(file *os.File, shared api.Agent) error {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(file, 0, shared.Size+1)); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != shared.Digest {
		return fmt.Errorf("its files are not those that were deployed: %w", api.ErrDamaged)
	}
	return nil
}

// Shared reports whether the agent is a copy from a shared store.
func (a *Agent) Shared() bool { return a.Digest != "" }

// Describe returns what a shared store says of an agent. Its files need not be on this host.
func Describe(shared api.Agent) *Agent {
	a := &Agent{Name: shared.Name, Snap: shared.Snapshot, Snapshot: Snapshot{Files: shared.Files, Bytes: shared.Bytes}}
	a.adopt(shared)
	return a
}
