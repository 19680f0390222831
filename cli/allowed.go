package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

// What a user allowed an agent always is kept under the agent's name in the state directory, root's alone. It is not
// written into superserve.yaml: the agent may be able to write there, and so to grant itself more, and the file is the
// user's, whose links root must not follow.

// maxAllowed is how many destinations are kept for an agent.
const maxAllowed = 256

// allowedFile is where they are, as a JSON array of HOST:PORT.
func allowedFile(state, name string) string { return filepath.Join(state, "allowed", name+".json") }

// keptAllowed returns them, sorted; none is no error.
func keptAllowed(state, name string) (kept []string, err error) {
	if err := api.CheckAgent(name); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(allowedFile(state, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil {
		return nil, fmt.Errorf("what agent '%s' is always allowed: %w", name, err)
	}
	return kept, nil
}

// keepAllowed replaces them by what change makes of them. Nobody else changes them meanwhile.
func keepAllowed(state, name string, change func([]string) ([]string, error)) error {
	dir := filepath.Dir(allowedFile(state, name))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	kept, err := keptAllowed(state, name)
	if err != nil {
		return err
	}
	if kept, err = change(kept); err != nil {
		return err
	}
	slices.Sort(kept)
	if kept = slices.Compact(kept); len(kept) > maxAllowed {
		return fmt.Errorf("agent '%s' is always allowed %d destinations, and no more are kept", name, maxAllowed)
	}
	if len(kept) == 0 {
		if err := os.Remove(allowedFile(state, name)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	temp := allowedFile(state, name) + ".new"
	if err := os.WriteFile(temp, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, allowedFile(state, name))
}

// addAllowed puts what the agent is always allowed into a run's network, and says so.
func (sh *shell) addAllowed(cfg *sandbox.Config, quiet bool) error {
	kept, err := keptAllowed(cfg.State, cfg.Agent)
	if err != nil {
		return err
	}
	if closedNetwork(cfg.Network) && len(kept) > 0 && !quiet {
		sh.note("you always allow agent '%s' to connect to %s; take it back: superserve policy always %s --forget …", cfg.Agent, joinWords(kept), cfg.Agent)
	}
	cfg.Network = withAllowed(cfg.Network, kept)
	return nil
}

// closedNetwork reports whether a network has a list of what is allowed: only there does somebody get asked, and does it matter
// what they allowed.
func closedNetwork(n sandbox.Network) bool {
	return n.Mode == egress.ModeBound || n.Allow != nil && (n.Mode == "" || n.Mode == egress.ModePublic)
}

// withAllowed is what an agent may reach with what it is always allowed. What is denied stays so.
func withAllowed(n sandbox.Network, kept []string) sandbox.Network {
	if closedNetwork(n) && len(kept) > 0 {
		n.Allow = append(slices.Clone(n.Allow), kept...)
	}
	return n
}
