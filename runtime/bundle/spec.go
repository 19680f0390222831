package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The limits of one agent's processes. They bound accidents; what a run may take from the host is bounded by its cgroup.
const (
	maxFiles = 1 << 20
	maxCore  = 0
)

// WriteSpec makes the bundle complete: an OCI runtime can create a container from it. It is called once. The error wraps
// ErrNotFound or ErrNotExecutable when the command cannot be started.
func (b *Bundle) WriteSpec(p Process) error {
	b.proc = p
	if err := p.Check(); err != nil {
		return err
	}
	if err := b.checkCommand(); err != nil {
		return err
	}
	if err := b.fillFiles(p.Files); err != nil {
		return err
	}
	return b.Do(b.writeSpec)
}

// Check refuses what JSON cannot carry, of which the spec is made and in which gVisor is told of a further process: it
// would arrive as something else. Values are not repeated, for some are secrets.
func (p Process) Check() error {
	for i, arg := range p.Command {
		if !utf8.ValidString(arg) {
			return fmt.Errorf("word %d of the command is not UTF-8", i+1)
		}
	}
	for _, kv := range p.Env {
		if !utf8.ValidString(kv) {
			name, _, _ := strings.Cut(kv, "=")
			return fmt.Errorf("the value of %q in the environment is not UTF-8", name)
		}
	}
	if !utf8.ValidString(p.Dir) {
		return errors.New("the folder to start in is not UTF-8")
	}
	return nil
}

// writeSpec writes config.json into the bundle's directory, which is on a tmpfs: what the environment exposes of
// secrets reaches no disk.
func (b *Bundle) writeSpec() error {
	data, err := json.Marshal(b.spec())
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	return os.WriteFile(filepath.Join(b.Dir(), "config.json"), data, 0o600)
}

// spec is the OCI runtime spec. It has no annotations at all: gVisor takes some of its flags from them.
func (b *Bundle) spec() *specs.Spec {
	return &specs.Spec{
		Version:  "1.1.0",
		Hostname: b.hostname(),
		Process: &specs.Process{
			Terminal:        b.proc.Terminal,
			User:            specs.User{UID: AgentUID, GID: AgentGID},
			Args:            b.proc.Command,
			Env:             b.environment(),
			Cwd:             b.cwd(),
			Capabilities:    &specs.LinuxCapabilities{},
			NoNewPrivileges: true,
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: maxFiles, Hard: maxFiles},
				{Type: "RLIMIT_CORE", Soft: maxCore, Hard: maxCore},
			},
		},
		// Not Readonly: the overlay above it is the agent's to write.
		Root:   &specs.Root{Path: b.rootDir()},
		Mounts: b.mounts(),
		Linux: &specs.Linux{
			Namespaces:  b.namespaces(),
			UIDMappings: b.cfg.IDs.mapping(),
			GIDMappings: b.cfg.IDs.mapping(),
		},
	}
}

func (b *Bundle) namespaces() []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
		// Without it a sentry on the host's network stack keeps CAP_NET_ADMIN over the namespace it is in.
		{Type: specs.UserNamespace},
	}
	if b.cfg.NetNS != "" {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: b.cfg.NetNS})
	}
	return ns
}

func (b *Bundle) mounts() []specs.Mount {
	ms := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro", "nosuid", "nodev", "noexec"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts"},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777", "nosuid", "nodev"}},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777", "nosuid", "nodev"}},
	}
	if b.cfg.Shared && b.cfg.Project != "" {
		ms = append(ms, b.shared("workspace", Workspace, false))
	}
	if b.cfg.Home != "" {
		ms = append(ms, b.shared("home", Home, false))
	}
	for i, m := range b.cfg.Mounts {
		ms = append(ms, b.shared(fmt.Sprint(i), m.Destination, m.ReadOnly))
	}
	return ms
}

// shared is a mount whose writes reach the host, unless it is read-only.
func (b *Bundle) shared(name, dst string, readOnly bool) specs.Mount {
	m := specs.Mount{
		Destination: dst,
		Type:        "bind",
		Source:      filepath.Join(b.mountDir(), name),
		Options:     []string{"rbind", "rw", "nosuid", "nodev"},
	}
	if readOnly {
		m.Options[1] = "ro"
	}
	return m
}
