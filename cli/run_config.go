package cli

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/superserve/superserve/runtime/agent"
	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

// config makes the sandbox's configuration of the manifest and the flags, which win.
func (f *runFlags) config(a *agent.Agent, m *agent.Manifest, p places) (sandbox.Config, error) {
	cfg := sandbox.Config{
		Agent: a.Name, State: p.state, Dir: a.Dir(), Runsc: f.runsc, Logs: true,
		Resolve: f.resolve, Rootfs: within(a.Source, m.Rootfs), Home: f.home, Timeout: m.Resources.Timeout,
		Limits:  cgroup.Limits{Memory: m.Resources.Memory, CPU: m.Resources.CPUs, Pids: m.Resources.Pids},
		Network: networkOf(m.Network), Prices: m.Prices,
	}
	for _, file := range m.Files {
		cfg.Files = append(cfg.Files, sandbox.File(file))
	}
	if m.Image != "" {
		return cfg, fmt.Errorf("%s: this release runs no images: unpack it and name the folder as rootfs", agent.ManifestName)
	}
	if f.rootfs != "" {
		cfg.Rootfs = f.rootfs
	}
	if f.workspace != "" {
		cfg.Dir, cfg.Workspace = f.workspace, true
	}
	cfg.Changes = f.copied
	who := whoCalls()
	if who.underSudo() {
		cfg.Owner = &sandbox.Owner{UID: who.uid, GID: who.gid}
	}
	err := f.keepHome(&cfg, m, p, who)
	return cfg, errors.Join(err, f.limits(&cfg), f.reach(&cfg), f.environment(&cfg, m), f.mount(&cfg, a, m))
}

// within makes a path of a manifest relative to the project it stands in; "" stays "".
func within(project, name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(project, name)
}

// keepHome makes the folder that is kept as the agent's home, if one is, and gives it to the caller.
func (f *runFlags) keepHome(cfg *sandbox.Config, m *agent.Manifest, p places, who caller) error {
	switch {
	case f.home == "persist" || f.home == "" && m.Home == "persist":
		cfg.Home = filepath.Join(p.state, "homes", m.Name)
	case f.home == "":
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Home), 0o711); err != nil {
		return fmt.Errorf("the agent's home: %w", err)
	}
	err := os.Mkdir(cfg.Home, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = os.Lchown(cfg.Home, int(who.uid), int(who.gid))
	}
	if err != nil {
		return fmt.Errorf("the agent's home: %w", err)
	}
	return nil
}

func (f *runFlags) limits(cfg *sandbox.Config) error {
	return errors.Join(
		flag("memory", f.memory, &cfg.Limits.Memory, agent.ParseSize),
		flag("cpus", f.cpus, &cfg.Limits.CPU, agent.ParseCPUs),
		flag("pids", f.pids, &cfg.Limits.Pids, agent.ParseCount),
		flag("timeout", f.timeout, &cfg.Timeout, agent.ParseTimeout),
	)
}

// flag reads a flag's value if it was given.
func flag[T any](name, value string, to *T, parse func(string) (T, error)) error {
	if value == "" {
		return nil
	}
	v, err := parse(value)
	if err != nil {
		return fmt.Errorf("--%s: %w", name, err)
	}
	*to = v
	return nil
}

// reach fills in what the agent may connect to.
func (f *runFlags) reach(cfg *sandbox.Config) error {
	if f.network != "" {
		if err := agent.CheckMode(f.network); err != nil {
			return fmt.Errorf("--network: %w", err)
		}
		cfg.Network.Mode = f.network
		if f.network == "public" {
			openNetwork(&cfg.Network)
		}
	}
	for _, r := range f.resolve {
		if err := checkResolve(r); err != nil {
			return err
		}
	}
	if f.upstreamCA == "" {
		return nil
	}
	var err error
	cfg.UpstreamCA, err = readCertificates(f.upstreamCA)
	return err
}

// checkResolve checks HOST:PORT:ADDR:PORT, an IPv6 ADDR in brackets.
func checkResolve(s string) error {
	fault := fmt.Errorf("--resolve %q: give HOST:PORT:ADDR:PORT", s)
	host, rest, _ := strings.Cut(s, ":")
	port, addr, ok := strings.Cut(rest, ":")
	if _, err := api.ParseHost(host); err != nil || !ok {
		return fault
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fault
	}
	if to, err := netip.ParseAddrPort(addr); err != nil || to.Port() == 0 {
		return fault
	}
	return nil
}

// readCertificates reads a PEM file of at most 4 MiB that holds a certificate.
func readCertificates(name string) ([]byte, error) {
	const most = 4 << 20
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("--upstream-ca: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("--upstream-ca: %w", err)
	}
	if len(text) > most || !x509.NewCertPool().AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("--upstream-ca: %s holds no certificate in PEM", name)
	}
	return text, nil
}

// environment merges the manifest's variables and the flags', each once: of two entries of one name C
// programs see the first and shells the last.
func (f *runFlags) environment(cfg *sandbox.Config, m *agent.Manifest) error {
	env := maps.Clone(m.Env)
	if env == nil {
		env = map[string]string{}
	}
	for _, kv := range f.env {
		key, value, given := strings.Cut(kv, "=")
		if err := api.CheckName(key); err != nil || !given {
			return fmt.Errorf("--env %q: give KEY=VALUE", key)
		}
		env[key] = value
	}
	for _, key := range slices.Sorted(maps.Keys(env)) {
		cfg.Env = append(cfg.Env, key+"="+env[key])
	}
	return nil
}

// mount takes the manifest's mounts, relative to the project, and the flags', relative to here.
func (f *runFlags) mount(cfg *sandbox.Config, a *agent.Agent, m *agent.Manifest) error {
	for _, s := range m.Mounts {
		mount := parseMount(s)
		mount.Source = within(a.Source, mount.Source)
		cfg.Mounts = append(cfg.Mounts, mount)
	}
	for _, s := range f.mounts {
		if err := agent.CheckMount(s); err != nil {
			return fmt.Errorf("--mount: %w", err)
		}
		cfg.Mounts = append(cfg.Mounts, parseMount(s))
	}
	for _, mount := range cfg.Mounts {
		if _, err := os.Stat(mount.Source); err != nil {
			return fmt.Errorf("mount: %w", err)
		}
	}
	return nil
}

// parseMount splits a mount whose form was checked.
func parseMount(s string) sandbox.Mount {
	parts := strings.Split(s, ":")
	return sandbox.Mount{Source: parts[0], Destination: parts[1], ReadOnly: len(parts) == 3 && parts[2] == "ro"}
}
