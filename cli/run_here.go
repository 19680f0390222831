package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/superserve/superserve/runtime/agent"
	"github.com/superserve/superserve/runtime/sandbox"
)

// exitNotFound is a shell's code for a command that is not there.
const exitNotFound = 127

// errOtherFolder means that a folder is called like an agent that was deployed from another one.
var errOtherFolder = errors.New("is deployed from another folder")

// runHere runs a command in the folder that the caller stands in, which needs no project: its name is the agent's, and
// what the command writes there is real.
func (sh *shell) runHere(ctx context.Context, argv []string, f runFlags) error {
	p, err := sh.places()
	if err != nil {
		return err
	}
	who := whoCalls()
	dir, err := f.folder(who, p)
	if err != nil {
		return err
	}
	name, err := sh.nameHere(ctx, dir, f)
	if err != nil {
		return err
	}
	m := &agent.Manifest{Name: name}
	cfg, err := f.config(&agent.Agent{Name: name, Source: dir}, m, p)
	if err != nil {
		return err
	}
	cfg.Dir, cfg.Workspace, cfg.Command = dir, true, slices.Clone(argv)
	if err := sh.bring(&cfg, who); err != nil {
		return err
	}
	if !f.quiet {
		sh.adviseHere(dir)
	}
	if err := sh.storedSecrets(ctx, m, f); err != nil {
		return err
	}
	if cfg.Secrets, err = sh.secretsFor(ctx, m, cfg.Command[0], who, f); err != nil {
		return err
	}
	return sh.supervise(ctx, cfg, f)
}

// folder is what becomes /workspace, without links: a link to a home is a home.
func (f *runFlags) folder(who caller, p places) (string, error) {
	dir := f.workspace
	if dir == "" {
		dir = "."
	}
	full, err := filepath.Abs(dir)
	if err == nil {
		full, err = filepath.EvalSymlinks(full)
	}
	if err != nil {
		return "", fmt.Errorf("share %s: %w", dir, err)
	}
	if f.yesShare {
		return full, nil
	}
	return full, who.checkShare(full, p)
}

// nameHere is the folder's name, or --name. An agent that was deployed from elsewhere keeps its secrets to itself.
func (sh *shell) nameHere(ctx context.Context, dir string, f runFlags) (string, error) {
	if f.name != "" {
		return f.name, nil
	}
	name := nameOf(dir)
	registry, err := sh.registry()
	if err != nil {
		return "", err
	}
	return name, sh.checkSource(ctx, registry, name, dir, errOtherFolder)
}

// bring finds the program on the caller's machine and has its installation shown. In a root file system of its own the
// command is looked for there alone.
func (sh *shell) bring(cfg *sandbox.Config, who caller) error {
	if cfg.Rootfs != "" {
		return nil
	}
	prog, err := who.program(cfg.Command[0], cfg.Dir)
	if errors.Is(err, errNoCommand) {
		sh.report(err)
		return exitCode(exitNotFound)
	}
	if err != nil {
		return err
	}
	cfg.Command[0], cfg.Mounts, cfg.Path = prog.command, append(prog.mounts(), cfg.Mounts...), prog.path
	return nil
}

// bringAgent is bring for an agent's own command, which may also come with its project or not be there. The system's
// program is taken before the caller's: an agent that was deployed runs alike for whoever starts it.
func (sh *shell) bringAgent(cfg *sandbox.Config, who caller) error {
	name := cfg.Command[0]
	if cfg.Rootfs != "" || strings.Contains(name, "/") || systemHas(name) {
		return nil
	}
	prog, err := who.program(name, cfg.Dir)
	if errors.Is(err, errNoCommand) {
		return nil // the sandbox says so, with the exit code of a shell
	}
	if err != nil {
		return err
	}
	cfg.Command[0], cfg.Mounts, cfg.Path = prog.command, append(prog.mounts(), cfg.Mounts...), prog.path
	return nil
}

// systemHas reports whether every sandbox on this machine has a program of that name.
func systemHas(name string) bool {
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

// adviseHere says that a project's own settings are not used: a folder that was just cloned must not be able to say
// where keys go because somebody runs a command in it.
func (sh *shell) adviseHere(dir string) {
	if _, err := os.Stat(filepath.Join(dir, agent.ManifestName)); err == nil {
		sh.note("%s in this folder is not used; with it: superserve run --workspace . .", agent.ManifestName)
	}
}

// storedSecrets adds what secretd keeps under the agent's name to the manifest.
func (sh *shell) storedSecrets(ctx context.Context, m *agent.Manifest, f runFlags) error {
	infos, err := sh.storedInfos(ctx, m.Name)
	if err != nil {
		return err
	}
	var names []string
	for _, info := range infos {
		m.Secrets = append(m.Secrets, agent.Secret{Name: info.Name})
		names = append(names, info.Name)
	}
	if len(names) > 0 && !f.quiet {
		sh.note("agent '%s' has the stored secrets %s", m.Name, joinWords(names))
	}
	return nil
}
