package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

type execFlags struct {
	interactive, tty bool
	env              []string
	dir              string
}

func (sh *shell) execCommand() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec RUN|AGENT -- CMD...",
		Short: "Run a further command in a running sandbox",
		Long: `Run a further command in a running sandbox, as its agent: the same files, network, placeholders and limits. Its
output and exit code are passed through; what it prints is not in the run's logs.`,
		Example: `  superserve exec my-agent -- bash
  superserve exec 3kq7 -- git diff`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 && cmd.ArgsLenAtDash() != 1 {
				return usageError{cmd.CommandPath(), "the command stands after --"}
			}
			return atLeast("RUN or AGENT", "CMD after --")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("interactive") && !f.interactive {
				sh.in = nil
			}
			f.tty = f.tty || !cmd.Flags().Changed("tty") && isTerminal(sh.in) && isTerminal(sh.out)
			return sh.exec(cmd.Context(), args[0], args[1:], f)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.interactive, "interactive", "i", false, "give the command standard input (the default; -i=false gives it none)")
	flags.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal (automatic on a terminal; -t=false gives it none)")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "set `KEY=VALUE` in its environment (repeatable)")
	flags.StringVar(&f.dir, "dir", "", "start in `DIR` of the sandbox (default: /workspace)")
	return cmd
}

// exec enters the sandbox from this process. The run's supervisor has no part in it: it listens on nothing that could be
// asked, and whoever may enter is root anyhow.
func (sh *shell) exec(ctx context.Context, id string, argv []string, f execFlags) error {
	if err := needRoot("superserve exec"); err != nil {
		return err
	}
	p, r, err := sh.findRun(id)
	if err != nil {
		return err
	}
	cfg := sandbox.ExecConfig{Command: argv, Env: f.env, Dir: f.dir, Stdout: sh.out, Stderr: sh.err}
	for _, kv := range f.env {
		key, _, given := strings.Cut(kv, "=")
		if err := api.CheckName(key); err != nil || !given {
			return fmt.Errorf("--env %q: give KEY=VALUE", key)
		}
	}
	if sh.in != nil {
		cfg.Stdin = sh.in
	}
	if f.tty {
		cfg.Terminal = &sandbox.Terminal{}
		if isTerminal(sh.in) {
			cfg.Terminal.File = sh.in
		}
		cfg.Env = append([]string{"TERM=" + os.Getenv("TERM")}, cfg.Env...)
	}
	result, err := sandbox.Exec(ctx, p.state, r.ID, cfg)
	if errors.Is(err, sandbox.ErrNotRunning) {
		return fmt.Errorf("run %s has ended already", r.ID)
	}
	return sh.ended(result, err, runFlags{})
}
