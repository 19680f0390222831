// Package sandbox runs one command in a gVisor sandbox whose only way out is a proxy that swaps placeholders for
// real keys. It is the public way to embed superserve: fill a Config, call Run or Start, read the Result.
//
// The package wires the mechanisms below it (bundle, runsc, netns, cgroup, bpf) and owns their lifetimes; it decides
// nothing about traffic. Every failure leaves the agent without a network or without a process, never with the network
// of the host.
//
// A start is two halves. The first makes all that surrounds the agent: a namespace with only lo, listeners in it, a
// control group with the hooks, the proxy, the root, and a container that is held before its first instruction; the cage
// is tested in between. The second lets the agent run. gVisor cannot restore a checkpoint on the host's network stack, so
// a warm start can only be a sandbox whose first half was done ahead.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/runtime/bundle"
	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/secretd/api"
)

// Config describes one run. Only Command and State are needed. The process needs root.
type Config struct {
	Binary string // the superserve binary, which is gVisor and the proxy; "" is this executable if it is superserve, else the one in PATH
	Runsc  string // another runsc; "" is Binary
	State  string // directory for records of runs, logs and audit; made if missing
	Debug  string // directory for gVisor's debug logs, which repeat the agent's environment; "" is none

	Agent   string   // name of the agent, for the audit log; "" is "agent"
	Command []string // argv; [0] is looked up in the sandbox's PATH
	Env     []string // K=V, added to what the sandbox sets; a secret of the same name wins

	Dir       string   // host directory of the project, copied on write to /workspace; "" is an empty one
	Workspace bool     // writes to /workspace reach Dir
	Changes   bool     // with Workspace and Logs: they reach the run's directory and stay there (ChangesDir), and Dir stays as it is
	Owner     *Owner   // to whom the agent's files in Dir and Home belong; nil is the owner of each
	Home      string   // host directory that is kept as the agent's home; "" is a fresh one
	Mounts    []Mount  // further files and directories of the host
	Files     []File   // files with placeholders that the agent finds
	Path      []string // directories of the sandbox ahead of the usual ones in the agent's PATH
	Rootfs    string   // directory to use as root file system; "" is the host's tools, read-only

	Terminal *Terminal // the agent's streams are a terminal; nil is pipes
	Stdin    io.Reader // nil is empty. A Read may be left waiting when the run has ended: close what it reads from
	Stdout   io.Writer // nil is discarded; it gets what comes as it comes, and an error of it closes the agent's end
	Stderr   io.Writer // nil is discarded; not used with Terminal
	Logs     bool      // keep copies of both in the run's directory, and the directory after the run

	Network    Network
	Resolve    []string // HOST:PORT:ADDR:PORT as curl's --resolve with a port: the operator's own word, ahead of DNS and policy
	UpstreamCA []byte   // PEM; authorities trusted for upstreams beside the host's
	Limits     cgroup.Limits
	Timeout    time.Duration        // for the whole run; 0 is none
	Prices     map[string]api.Price // of models, over those that superserve knows; for limits of money

	Secrets Secrets      // nil is none
	Log     *zap.Logger  // nil is no log
	Ask     Ask          // answers what the run's rules leave open; nil is no
	Notice  func(string) // gets a sentence for the user now and then, unescaped, from one goroutine; may be nil
}

// Network says what the agent may reach. The zero value is the public internet over TCP.
type Network struct {
	Mode         string   `json:"mode,omitempty"`          // "public" (also ""), "bound" (only hosts bound to secrets) or "none"
	Allow        []string `json:"allow"`                   // names, wildcards or CIDRs with an optional port; if not nil, even if empty, only these and bound hosts
	Deny         []string `json:"deny,omitempty"`          // the same forms; always wins
	AllowPrivate []string `json:"allow_private,omitempty"` // CIDRs of private space that rules may reach

	Requests []RequestRule `json:"requests,omitempty"` // rules with methods and paths
}

// Mount shows a file or directory of the host in the sandbox. Writes to it reach the host unless ReadOnly.
type Mount = bundle.Mount

// File is a small file of the agent's own in which placeholders stand: ~/.netrc, say. It has mode 0600 and is neither in
// Dir nor in Home on the host.
type File struct {
	Path string // absolute and clean, below bundle.Home, or below bundle.Workspace when that is not the real folder
	Text string // ${NAME} is the placeholder of a secret; see package runtime/files
}

// Owner is a user of the host, with a group.
type Owner = bundle.Owner

// Terminal makes the agent's streams a terminal.
type Terminal struct {
	Rows, Cols uint16 // its first size; 0 is that of File, else 24 by 80

	// File is the user's own terminal, which is then put into raw mode for the time of the run and whose size is
	// followed (SIGWINCH). Nil leaves both to the caller: Config.Stdin and Stdout are the terminal's two directions, and
	// Sandbox.Resize sets the size.
	File *os.File
}

// Secrets gets what one run is granted. It is called once, at the start of the run.
type Secrets func(ctx context.Context, run string) (Granted, error)

// Granted is what a run may use. The sandbox owns it: it closes Channel, and calls Close when the run has ended.
type Granted struct {
	Entries []api.Entry       // become the agent's environment: name=placeholder
	Exposed map[string][]byte // values of the entries that the agent itself shall hold
	Channel *os.File          // the proxy's end of a stream socket pair whose other end speaks secretd/lease
	Second  *os.File          // the same of another keeper, whose entries are among Entries; see Both
	Resume  string            // hex token with which the proxy takes the grant up again; "" if it cannot
	Socket  string            // secretd's socket, needed for Resume
	Close   func()            // may be nil

	// Bind binds a secret that this process keeps, for this run; nil where it keeps none. Others are not its business.
	Bind func(name string, b api.Binding) error
}

// minMemory is the least limit, in bytes. With less not even the self-test's helper starts (a run of 'true' takes some 20
// MiB, 2026-11-24), and on cgroup v1 the supervisor's own thread, which goes in to fork, is stuck in a few bytes.
const minMemory = 16 << 20

// errConfig marks a configuration that no sandbox can be started from.
var errConfig = errors.New("invalid configuration")

// complete fills the defaults in and checks what can be checked without side effects.
func (c *Config) complete() error {
	if c.Agent == "" {
		c.Agent = "agent"
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.Notice == nil {
		c.Notice = func(string) {}
	}
	if c.Secrets == nil {
		c.Secrets = func(context.Context, string) (Granted, error) { return Granted{}, nil }
	}
	if len(c.Command) == 0 {
		return fmt.Errorf("%w: no command", errConfig)
	}
	if m := c.Limits.Memory; m != 0 && m < minMemory {
		return fmt.Errorf("%w: limit memory to %d bytes: give %d or more, or 0 for none", errConfig, m, minMemory)
	}
	if err := api.CheckAgent(c.Agent); err != nil {
		return fmt.Errorf("%w: %w", errConfig, err)
	}
	for _, kv := range c.Env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" || strings.ContainsRune(kv, 0) {
			return fmt.Errorf("%w: environment entry %q is not K=V", errConfig, k)
		}
	}
	if c.Changes && (!c.Workspace || !c.Logs || c.Dir == "") {
		return fmt.Errorf("%w: changes of no workspace, or of a run that keeps nothing", errConfig)
	}
	if err := c.checkFiles(); err != nil {
		return err
	}
	if err := c.findBinary(); err != nil {
		return err
	}
	return c.absolute()
}

// absolute makes the paths independent of the working directory.
func (c *Config) absolute() error {
	if c.State == "" {
		return fmt.Errorf("%w: no state directory", errConfig)
	}
	paths := []*string{&c.Binary, &c.Runsc, &c.State, &c.Debug, &c.Dir, &c.Home, &c.Rootfs}
	c.Mounts = append([]Mount(nil), c.Mounts...) // the caller's slice stays as it is
	for i := range c.Mounts {
		paths = append(paths, &c.Mounts[i].Source)
	}
	for _, p := range paths {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	return nil
}

// findBinary finds superserve and the runsc to use.
func (c *Config) findBinary() (err error) {
	if c.Binary == "" {
		if c.Binary, err = os.Executable(); err != nil {
			return fmt.Errorf("find superserve: %w", err)
		}
		if filepath.Base(c.Binary) != "superserve" {
			if c.Binary, err = exec.LookPath("superserve"); err != nil {
				return fmt.Errorf("find superserve: %w", err)
			}
		}
	}
	if c.Runsc == "" {
		c.Runsc = c.Binary
	}
	return nil
}
