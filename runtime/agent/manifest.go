package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/goccy/go-yaml/ast"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
)

// ManifestName is the file that describes an agent, in its project's folder.
const ManifestName = "superserve.yaml"

// maxManifest is the largest superserve.yaml that is read, in bytes. A parser never sees more: a
// hundredth of it is a long one.
const maxManifest = 64 << 10

// ErrNoManifest means that a folder has no superserve.yaml.
var ErrNoManifest = errors.New("superserve.yaml not found")

// Manifest is a superserve.yaml, checked. The zero value of a field means that the file says nothing.
type Manifest struct {
	Name      string
	Command   Command
	Secrets   []Secret
	Ignore    []string // gitignore's patterns, relative to the project
	Network   Network
	Env       map[string]string
	Mounts    []string // SRC:DST[:ro]
	Image     string   // an OCI image's reference
	Rootfs    string   // a directory to be the root file system
	Home      string   // "persist" or ""
	Resources Resources
	Files     []File // credential files, in the order of the manifest

	Prices map[string]api.Price // of models, over those that superserve knows

	// `files` and `limits`, until the secrets are known.
	unread, unlimited *ast.MappingNode
}

// Command is what an agent runs: a shell's line or an argument vector, never both.
type Command struct {
	Line string
	Argv []string
}

// Secret is one entry of `secrets`. No Hosts and no Uses take the stored binding, else the preset's.
type Secret struct {
	Name   string
	Hosts  []api.Pattern
	Uses   []api.Use
	Expose bool // hand the agent the real value
	Limits api.Limits
}

// Binding returns the binding that the file gives the secret, nil when it gives none.
func (s Secret) Binding() *api.Binding {
	if len(s.Hosts) == 0 {
		return nil
	}
	return &api.Binding{Hosts: s.Hosts, Uses: s.Uses}
}

// Network is what an agent may reach. Allow that is nil and Allow that is empty differ: the first
// leaves the public internet open, the second closes all but the hosts bound to secrets.
type Network struct {
	Mode         string // "", "none", "bound" or "public"
	Allow        []string
	Deny         []string
	AllowPrivate []string
	Requests     []RequestRule // the entries of both lists that speak of requests
}

// Resources are the limits of one run; zero means no limit.
type Resources struct {
	Memory  int64 // bytes
	CPUs    float64
	Pids    int64
	Timeout time.Duration
}

// Load reads and checks the superserve.yaml of the folder dir. A symlink there is followed only while
// it stays inside dir. Errors: ErrNoManifest, or an *Error that names file, line and column.
func Load(dir string) (*Manifest, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open project: %w", err)
	}
	defer root.Close()
	return loadFrom(root)
}

func loadFrom(root *os.Root) (*Manifest, error) {
	f, err := root.OpenFile(ManifestName, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe would be waited for, for ever
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoManifest, root.Name())
	}
	if err != nil {
		return nil, fmt.Errorf("read project: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, fmt.Errorf("read project: %w", err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read project: %s is no regular file", ManifestName)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read project: %w", err)
	}
	return Parse(text)
}

// Parse checks the text of a superserve.yaml of at most 64 KiB. An error is an *Error.
func Parse(text []byte) (*Manifest, error) {
	if len(text) > maxManifest {
		return nil, &Error{File: ManifestName, Line: 1, Column: 1, Text: fmt.Sprintf("larger than %d KiB", maxManifest>>10)}
	}
	root, err := parseTree(text)
	if err != nil {
		return nil, err
	}
	m := &Manifest{}
	if err := m.read(root); err != nil {
		return nil, err
	}
	return m, nil
}

// Error is a fault of a superserve.yaml and its place, both counted from 1 (columns in characters).
type Error struct {
	File         string
	Line, Column int
	Text         string
}

// Error gives the form that editors and compilers use, file:line:column: text.
func (e *Error) Error() string { return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text) }
