package cli

import (
	"os"
	"path/filepath"

	"github.com/superserve/superserve/runtime/agent"
)

// The system's places, where a package or `make install` has made them.
const (
	systemState = "/var/lib/superserve"
	systemRun   = "/run/superserve"
)

// places are where one superserve keeps its things.
type places struct {
	state  string // deployed agents, records of runs, secretd's store
	run    string // sockets and what lives as long as a run; a tmpfs on a usual host
	socket string // secretd's
}

// places returns the system's places, or those under --state, which moves everything so that a test or
// a trial leaves the system alone.
func (sh *shell) places() (places, error) {
	if sh.state == "" {
		return places{state: systemState, run: systemRun, socket: filepath.Join(systemRun, "secretd.sock")}, nil
	}
	state, err := filepath.Abs(sh.state)
	if err != nil {
		return places{}, err
	}
	run := filepath.Join(state, "run")
	return places{state: state, run: run, socket: filepath.Join(run, "secretd.sock")}, nil
}

// registry returns the registry of deployed agents.
func (sh *shell) registry() (*agent.Registry, error) {
	p, err := sh.places()
	if err != nil {
		return nil, err
	}
	return agent.NewRegistry(p.state), nil
}

// needRoot refuses a command that could only fail half-way without root.
func needRoot(what string) error {
	if os.Geteuid() != 0 {
		return rootError(what)
	}
	return nil
}

// rootError says which command needs root.
type rootError string

// Error names the command.
func (e rootError) Error() string { return string(e) + " needs root" }

// Is matches errNotRoot, for the hint.
func (e rootError) Is(target error) bool { return target == errNotRoot }
