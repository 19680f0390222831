// Package bundle makes the world that an agent sees: an OCI spec and a root file system, put together in a mount
// namespace of its own, so that nothing of it can stay behind on the host, however the supervisor ends.
//
// The root is made up: the host's /usr (and what its /bin, /sbin and /lib* are) read-only, an /etc of our own, an
// empty home, the project under /workspace. All of it is one tree, mounted read-only for gVisor, whose overlay takes
// every write; only mounts that the operator shares are written through.
//
// Who the agent is: uid 1000, named agent, with no capability. It is not root, not even in looks: without CAP_CHOWN a
// uid 0 breaks what tools do only as root (tar and rsync restore owners and fail, cp -a complains), and nothing would
// become writable by it, for /usr is read-only anyway. Coding agents that ask whether they are in a sandbox read
// IS_SANDBOX=1. Every uid of the sandbox is mapped to one that the host does not use (see IDs); the owner of the project
// and of each shared mount appears as the agent by an id-mapped mount, and what the agent writes there belongs to
// that owner.
package bundle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/runtime/thread"
)

// Paths inside the sandbox.
const (
	Home      = "/home/agent" // the agent's home, writable, fresh unless Config.Home
	Workspace = "/workspace"  // the project, and the working directory
)

// The agent's ids inside the sandbox.
const (
	AgentUID = 1000
	AgentGID = 1000
)

// Config describes one sandbox's world. Paths of the host are absolute.
type Config struct {
	ID       string // of the run; [a-z0-9-]
	Hostname string // "" is "superserve"
	IDs      IDs    // what the sandbox's ids are on the host
	NetNS    string // path of the network namespace; "" leaves the spec without one

	Rootfs    string   // a directory to use as the root instead of the host's tools
	Project   string   // host directory for Workspace; "" is an empty one
	Shared    bool     // writes to Workspace reach Project, or Changes
	Changes   string   // with Shared: host directory that takes the writes in Project's place, see changes.Make; "" is none
	Owner     *Owner   // to whom the agent's files in Project and Home belong; nil is the owner of each
	Home      string   // host directory for Home; "" is a fresh one
	Mounts    []Mount  // further host files and directories
	Files     []string // of Process.Files: absolute, clean, below Home or Workspace, none inside another
	Resolvers []string
	Trust     []byte // PEM, trusted beside the host's roots and the run's CA
}

// Owner is a user of the host, with a group.
type Owner struct{ UID, GID uint32 }

// Process is what runs first in the sandbox.
type Process struct {
	Command  []string // argv; [0] is looked up in the agent's PATH
	Env      []string // K=V, placeholders among them; wins over what the bundle sets
	Path     []string // directories ahead of the usual ones in PATH
	Dir      string   // under Workspace; "" is its top
	Terminal bool     // its standard streams are a terminal
	Files    []File   // files that it finds; exactly those that Config.Files names
}

// File is a small file of the agent's own, mode 0600.
type File struct {
	Path string
	Data []byte
}

// Mount shows a file or directory of the host in the sandbox. Writes to it reach the host unless ReadOnly.
type Mount struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	ReadOnly    bool   `json:"read_only,omitempty"`
}

// A Bundle is a mount namespace that holds one sandbox's root and OCI bundle, and the thread that lives in it.
// Its methods are safe for concurrent use. Close it when nothing started through it still runs.
type Bundle struct {
	cfg   Config
	base  string              // where the bundle's tmpfs is mounted, in its namespace only
	proc  Process             // set by WriteSpec
	root  *os.Root            // the root's own tmpfs, writable for us, read-only for gVisor
	files map[string]*os.File // of Config.Files by path, to be filled
	calls chan call
	done  chan struct{}
	ns    *os.File
	notes []string
}

type call struct {
	f   func() error
	err chan error
}

// New makes the namespace and everything in it that does not depend on the agent's secrets: those come with WriteSpec,
// and the run's CA with Trust. It needs CAP_SYS_ADMIN.
func New(cfg Config) (*Bundle, error) {
	b := &Bundle{cfg: cfg, calls: make(chan call), done: make(chan struct{})}
	if err := b.start(b.populate); err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	return b, nil
}

// Join enters the bundle of another process: the mount namespace of process pid, where a bundle is mounted at base. Of
// the methods, only Do, State and Close are for it; Close does not end what it did not start.
func Join(pid int, base string) (*Bundle, error) {
	b := &Bundle{base: base, calls: make(chan call), done: make(chan struct{})}
	err := b.start(func() (err error) {
		if b.ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid)); err != nil {
			return err
		}
		// A thread that shares its root and working directory with others cannot change namespace (setns(2)).
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Setns(int(b.ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter mount namespace: %w", err)
		}
		_, err = os.Stat(b.State())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("join bundle of process %d: %w", pid, err)
	}
	return b, nil
}

// start runs enter on the bundle's own thread, and then what Do brings.
func (b *Bundle) start(enter func() error) error {
	ready := make(chan error)
	thread.Go(func() { b.thread(enter, ready) })
	err := <-ready
	if err != nil {
		<-b.done
	}
	return err
}

// thread owns one OS thread for the life of the bundle, so that no other goroutine meets the private namespace.
// Children started by Do carry a parent-death signal, which the kernel ties to this thread and not to the process: it
// has to outlive them.
func (b *Bundle) thread(enter func() error, ready chan<- error) {
	defer close(b.done)
	if err := enter(); err != nil {
		b.release()
		ready <- err
		return
	}
	ready <- nil
	for c := range b.calls {
		c.err <- c.f()
	}
	b.release()
}

func (b *Bundle) release() {
	for _, f := range b.files {
		f.Close()
	}
	if b.root != nil {
		b.root.Close()
	}
	if b.ns != nil {
		b.ns.Close()
	}
}

// populate leaves the host's mount namespace and builds the bundle in the new one.
func (b *Bundle) populate() (err error) {
	if b.ns, err = privateMounts(); err != nil {
		return err
	}
	// After the host's propagation is cut, before a mount of ours hides anything.
	trees, err := b.openTrees()
	defer trees.close()
	if err != nil {
		return err
	}
	if b.base, err = mountBase(b.cfg.avoid()); err != nil {
		return err
	}
	for _, dir := range []string{b.Dir(), b.State(), b.rootDir(), b.mountDir()} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	return b.buildRoot(trees)
}

// Do runs f on the bundle's thread, inside its mount namespace, one f at a time. Processes that f starts see the
// bundle and may be given a parent-death signal.
func (b *Bundle) Do(f func() error) error {
	c := call{f, make(chan error, 1)}
	select {
	case b.calls <- c:
		return <-c.err
	case <-b.done:
		return errors.New("bundle is closed")
	}
}

// Close ends the thread. The namespace goes with its last process, and with it every mount and file of the bundle.
// It must be called once, after the last Do returned.
func (b *Bundle) Close() error {
	close(b.calls)
	<-b.done
	return nil
}

// Base is where the bundle is mounted, for Join.
func (b *Bundle) Base() string { return b.base }

// Dir is the OCI bundle's directory, inside the namespace.
func (b *Bundle) Dir() string { return filepath.Join(b.base, "bundle") }

// State is a directory for the OCI runtime's own state, inside the namespace. Being there, and not on the host, it
// needs no sweeping after a crash, and the specs it repeats never touch a disk.
func (b *Bundle) State() string { return filepath.Join(b.base, "state") }

// Notes are sentences for the user about what had to be done in a lesser way on this host.
func (b *Bundle) Notes() []string { return b.notes }

func (b *Bundle) rootDir() string  { return filepath.Join(b.base, "root") }
func (b *Bundle) mountDir() string { return filepath.Join(b.base, "mounts") }

func (b *Bundle) note(format string, args ...any) {
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
}

// avoid lists paths that the bundle's mount point must not hide.
func (c *Config) avoid() []string { return []string{c.NetNS} }

// privateMounts gives this thread a mount namespace whose changes stay in it, and returns the namespace.
func privateMounts() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("unshare mount namespace: %w", err)
	}
	// Slave, not private: an unmount on the host must reach us, or we would hold a disk busy for hours.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return nil, fmt.Errorf("make mounts slave: %w", err)
	}
	f, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, fmt.Errorf("open mount namespace: %w", err)
	}
	return f, nil
}

// basePoints are directories that every Linux has (FHS 3.0) and every uid may walk. The bundle cannot be mounted in
// the run's own directory: the gofer walks to it as the sandbox's uid, which a state directory of mode 0700 stops.
var basePoints = [...]string{"/mnt", "/media", "/srv", "/opt"}

// mountBase mounts the bundle's tmpfs over one of basePoints that hides none of avoid.
func mountBase(avoid []string) (string, error) {
	for _, dir := range basePoints {
		st, err := os.Stat(dir)
		if err != nil || !st.IsDir() || hides(dir, avoid) {
			continue
		}
		if err := unix.Mount("superserve", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return "", fmt.Errorf("mount tmpfs on %q: %w", dir, err)
		}
		return dir, nil
	}
	return "", fmt.Errorf("find a mount point among %q: %w", basePoints, os.ErrNotExist)
}

func hides(dir string, paths []string) bool {
	for _, p := range paths {
		if rel, err := filepath.Rel(dir, p); err == nil && filepath.IsLocal(rel) {
			return true
		}
	}
	return false
}
