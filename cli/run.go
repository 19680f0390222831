package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/runtime/agent"
)

const runLong = `Run a command of this machine in a sandbox: superserve run -- CMD. The folder that you stand in is /workspace,
and what the command writes there is real and yours; with --copy it stays apart, for superserve diff and apply.
Nothing else of your files is there, and of your environment only what --env and --secret name.

Or run an agent: one that was deployed, by its name, or the project in a folder, which is deployed first; what
stands after -- is given to it. Its project is /workspace, writable, and forgotten at the end.

The host's programs are there, read-only. The environment holds a placeholder for each secret. Output and exit
code are passed through. On a terminal you are asked what the rules leave open: names that network.allow does not hold,
and hosts for a secret that is bound to none.

Exit codes: the agent's own; 1 an error before it ran; 124 its time was up; 125 the sandbox failed under
it; 126 and 127 its command cannot be run or is not there; 130 interrupted.`

// runFlags are the flags of `run`. Values are kept as they were written; options checks them.
type runFlags struct {
	interactive, tty            bool
	noStdin                     bool // -i=false
	env, mounts, resolve        []string
	workspace, home, network    string
	upstreamCA, rootfs, runsc   string
	memory, cpus, pids, timeout string
	asJSON, quiet               bool
	secrets                     []string
	name                        string
	copied, yesShare, ask       bool
}

func (sh *shell) runCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [AGENT|DIR] [-- ARGS...]",
		Short: "Run a command or an agent in a sandbox",
		Long:  runLong,
		Example: `  superserve run --secret ANTHROPIC_API_KEY -- claude
  superserve run --copy --secret MY_TOKEN=api.example.com:header:x-api-key -- npm test
  superserve run ./my-agent
  superserve run my-agent -- --task "read the news"
  superserve run --workspace . --network bound my-agent`,
		Args: runArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.noStdin = cmd.Flags().Changed("interactive") && !f.interactive
			f.tty = f.tty || !cmd.Flags().Changed("tty") && !f.asJSON && isTerminal(sh.in) && isTerminal(sh.out)
			if err := needRoot("superserve run"); err != nil {
				return err
			}
			if cmd.ArgsLenAtDash() == 0 {
				return sh.runHere(cmd.Context(), args, f)
			}
			return sh.run(cmd.Context(), args[0], args[1:], f)
		},
	}
	f.register(cmd)
	return cmd
}

func (f *runFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVarP(&f.interactive, "interactive", "i", false, "give the agent standard input (the default; -i=false gives it none)")
	flags.BoolVarP(&f.tty, "tty", "t", false, "give the agent a terminal (automatic on a terminal; -t=false gives it none)")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "set `KEY=VALUE` in the agent's environment; it is no secret (repeatable)")
	flags.StringArrayVar(&f.secrets, "secret", nil, "bring `NAME[=HOST[:USE]]` of your own environment, for this run only and as a placeholder (repeatable)")
	flags.StringVar(&f.name, "name", "", "without an agent: run as agent `NAME` in place of the folder's")
	flags.BoolVar(&f.copied, "copy", false, "with a real /workspace: keep the changes apart, for diff and apply")
	flags.BoolVar(&f.yesShare, "yes-share", false, "share a folder that is the system's or a home, all the same")
	flags.StringArrayVar(&f.mounts, "mount", nil, "show `SRC:DST[:ro]` of this machine in the sandbox (repeatable)")
	flags.StringVar(&f.workspace, "workspace", "", "use `DIR` as /workspace, for real: what the agent writes stays there")
	flags.StringVar(&f.home, "home", "", "keep the agent's home in `DIR`; persist keeps one for each agent")
	flags.StringVar(&f.rootfs, "rootfs", "", "use `DIR` as the root file system in place of this machine's programs")
	flags.StringVar(&f.network, "network", "", "`MODE`: none, bound (the secrets' hosts and what is allowed) or public")
	flags.StringArrayVar(&f.resolve, "resolve", nil, "connect to `HOST:PORT:ADDR:PORT`, as curl's (repeatable)")
	flags.StringVar(&f.upstreamCA, "upstream-ca", "", "trust the certificates in `FILE` for upstreams too")
	flags.StringVar(&f.memory, "memory", "", "limit memory to `SIZE`, as in 512M")
	flags.StringVar(&f.cpus, "cpus", "", "limit processors to `N`, as in 1.5")
	flags.StringVar(&f.pids, "pids", "", "limit processes to `N`")
	flags.StringVar(&f.timeout, "timeout", "", "end the agent after `TIME`, as in 90s or 2h")
	flags.StringVar(&f.runsc, "runsc", "", "use another gVisor at `PATH`")
	flags.BoolVar(&f.ask, "ask", true, "on a terminal, ask what the rules leave open; --ask=false refuses it")
	flags.BoolVar(&f.asJSON, "json", false, "print what happens as a JSON object a line")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "print no notes")
}

// runArgs wants an agent, and a -- before anything that is for it; or nothing before the -- and a command after it.
func runArgs(cmd *cobra.Command, args []string) error {
	if cmd.ArgsLenAtDash() == 0 {
		return atLeast("CMD after --")(cmd, args)
	}
	for _, flag := range []string{"name", "yes-share"} {
		if cmd.Flags().Changed(flag) {
			return usageError{cmd.CommandPath(), "--" + flag + " is for a command: superserve run [FLAGS] -- CMD"}
		}
	}
	if cmd.Flags().Changed("copy") && !cmd.Flags().Changed("workspace") {
		return usageError{cmd.CommandPath(), "--copy is for a real folder: give --workspace DIR too, or a command after --"}
	}
	if len(args) > 1 && cmd.ArgsLenAtDash() != 1 {
		return usageError{cmd.CommandPath(), fmt.Sprintf("unexpected argument '%s': what is for the agent stands after --", escapeLine(args[1]))}
	}
	return atLeast("AGENT, DIR or -- CMD")(cmd, args)
}

// run is the main job: find the agent, check its secrets, start the sandbox, pass its end on.
func (sh *shell) run(ctx context.Context, target string, args []string, f runFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	a, m, release, err := sh.project(ctx, target, f.workspace)
	if err != nil {
		return err
	}
	defer release()
	if err := f.checkHostFiles(a, m); err != nil {
		return err
	}
	p, err := sh.places()
	if err != nil {
		return err
	}
	cfg, err := f.config(a, m, p)
	if err != nil {
		return err
	}
	cfg.Command = m.Command.Vector(args)
	if !f.quiet {
		sh.adviseMounts(a, m)
	}
	who := whoCalls()
	if err := sh.bringAgent(&cfg, who); err != nil {
		return err
	}
	if cfg.Secrets, err = sh.secretsFor(ctx, m, cfg.Command[0], who, f); err != nil {
		return err
	}
	return sh.supervise(ctx, cfg, f)
}

// project finds the agent of a word, and keeps its snapshot. A folder that is shared for real is not copied first, nor
// deployed: nobody would look at the copy.
func (sh *shell) project(ctx context.Context, word, workspace string) (*agent.Agent, *agent.Manifest, func(), error) {
	if workspace != "" && sameFolder(word, workspace) {
		a, m, err := sh.shared(ctx, word)
		return a, m, func() {}, err
	}
	a, m, err := sh.target(ctx, word)
	if err != nil {
		return nil, nil, nil, err
	}
	held, err := a.Hold()
	if err != nil {
		return nil, nil, nil, err
	}
	return a, m, func() { held.Close() }, nil
}

// shared is the agent of a folder, as it lies there. Another folder's agent of that name keeps its secrets to itself.
func (sh *shell) shared(ctx context.Context, dir string) (*agent.Agent, *agent.Manifest, error) {
	m, err := agent.Load(dir)
	if err != nil {
		return nil, nil, err
	}
	source, err := filepath.Abs(dir)
	if err != nil {
		return nil, nil, err
	}
	registry, err := sh.registry()
	if err != nil {
		return nil, nil, err
	}
	if err := sh.checkSource(ctx, registry, m.Name, source, errOtherSource); err != nil {
		return nil, nil, err
	}
	return &agent.Agent{Name: m.Name, Source: source}, m, nil
}

// sameFolder reports whether a word is the path of a project that is the folder dir.
func sameFolder(word, dir string) bool {
	if !strings.ContainsRune(word, filepath.Separator) && word != "." && word != ".." {
		return false
	}
	a, err := os.Stat(word)
	if err != nil || !a.IsDir() {
		return false
	}
	b, err := os.Stat(dir)
	return err == nil && os.SameFile(a, b)
}

// target finds the agent that a word means: a path is a folder, and so is a folder whose name no agent
// has; everything else is a name.
func (sh *shell) target(ctx context.Context, word string) (*agent.Agent, *agent.Manifest, error) {
	registry, err := sh.registry()
	if err != nil {
		return nil, nil, err
	}
	dir := strings.ContainsRune(word, filepath.Separator) || word == "." || word == ".."
	if !dir {
		a, m, err := sh.agent(ctx, word)
		info, statErr := os.Stat(filepath.Join(word, agent.ManifestName))
		if !errors.As(err, new(unknownError)) || statErr != nil || !info.Mode().IsRegular() {
			return a, m, err
		}
	}
	a, err := sh.deployFrom(ctx, registry, word)
	if err != nil {
		return nil, nil, err
	}
	m, err := a.Manifest()
	return a, m, err
}

// adviseMounts says what of this machine the project itself asks to be shown.
func (sh *shell) adviseMounts(a *agent.Agent, m *agent.Manifest) {
	for _, s := range m.Mounts {
		mount := parseMount(s)
		how := "to be written"
		if mount.ReadOnly {
			how = "read-only"
		}
		sh.note("%s shows the agent %s of this machine, %s", agent.ManifestName, escapeLine(within(a.Source, mount.Source)), how)
	}
}
