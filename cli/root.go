// Package cli is what a person types: one cobra command a file, each parsing its arguments, calling
// one of the other packages and reporting. Results go to stdout; progress, notes and errors to stderr.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/secretd/client"
)

// Exit codes of superserve itself; once the agent ran, its own code is passed through.
const (
	exitOK          = 0
	exitError       = 1   // our error, before the agent ran
	exitSandbox     = 125 // the sandbox failed under a running agent
	exitInterrupted = 130 // 128 + SIGINT, as a shell reports it
)

// Main runs superserve with the arguments, streams and signals of this process and returns its exit
// code. It is to be called once.
func Main() int {
	collectLess()
	sh := &shell{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second interrupt ends this program as it does any, unless an agent runs under it
	return sh.execute(ctx, os.Args[1:])
}

// shell is what a command knows of its surroundings: the streams and the flags of every command. It
// belongs to one invocation and is not safe for concurrent use.
type shell struct {
	in       *os.File
	out, err io.Writer
	state    string // --state: one directory for everything, "" = the system's places
	noColor  bool
	remote   remote

	keeper *client.Client // the secretd that has answered, nil before it was needed
}

// execute runs one command line and turns its error into text and an exit code.
func (sh *shell) execute(ctx context.Context, args []string) int {
	root := sh.rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	case ctx.Err() != nil:
		fmt.Fprintln(sh.err, "\nCancelled.")
		return exitInterrupted
	}
	sh.report(err)
	return exitError
}

// report prints err as one line and, where there is advice for it, the advice as another.
func (sh *shell) report(err error) {
	text := strings.ReplaceAll(err.Error(), "\n", "; ") // errors.Join puts each on a line
	fmt.Fprintf(sh.err, "%s %s\n", sh.paint(sh.err, red, "Error:"), escapeText(text))
	if advice := hint(err); advice != "" {
		fmt.Fprintf(sh.err, "hint: %s\n", advice)
	}
}

// exitCode ends the program with a code and no further text: whoever returns it has said all.
type exitCode int

// Error is for whoever prints it by mistake.
func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func (sh *shell) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:               "superserve",
		Short:             "Run AI agents in a sandbox that never holds a real key",
		Long:              rootLong,
		SilenceErrors:     true,
		SilenceUsage:      true,
		Version:           buildVersion(),
		Args:              cobra.ArbitraryArgs,
		RunE:              unknownCommand,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return sh.remote.settle(cmd) },
	}
	root.SetIn(sh.in)
	root.SetOut(sh.out)
	root.SetErr(sh.err)
	flags := root.PersistentFlags()
	flags.StringVar(&sh.state, "state", os.Getenv("SUPERSERVE_STATE"), "keep everything under `DIR` (env SUPERSERVE_STATE)")
	flags.BoolVar(&sh.noColor, "no-color", false, "print no colour (also: NO_COLOR)")
	sh.remote.register(root)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{cmd.CommandPath(), err.Error()}
	})
	root.AddCommand(sh.commands()...)
	for _, cmd := range root.Commands() {
		sh.complete(cmd)
	}
	addCompletion(root)
	return root
}

// addCompletion adds cobra's own command now, so that it answers a shell that it does not know as every
// group does; cobra prints its help and calls that a success.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	if cmd, _, err := root.Find([]string{"completion"}); err == nil && cmd != root {
		cmd.Args, cmd.RunE = cobra.ArbitraryArgs, unknownCommand
	}
}

const rootLong = `superserve runs AI agents inside gVisor. An agent's environment holds placeholders;
the real keys are put into its requests on the way out, for the hosts they are bound to.

  superserve secrets set my-agent ANTHROPIC_API_KEY=sk-ant-...
  superserve run ./my-agent

Where a command takes RUN, the beginning of a run's id is enough; where it takes AGENT too, that is the agent's run
that began last. Results are on stdout, all else is on stderr. An error is exit code 1, an interrupt 130; of "run" and
"exec" it is the command's own, or what "superserve run --help" says.`

// commands lists every command of the tool, in the order of a first use.
func (sh *shell) commands() []*cobra.Command {
	return []*cobra.Command{
		sh.secretsCommand(),
		sh.initCommand(),
		sh.deployCommand(),
		sh.runCommand(),
		sh.psCommand(),
		sh.logsCommand(),
		sh.watchCommand(),
		sh.execCommand(),
		sh.stopCommand(),
		sh.diffCommand(),
		sh.applyCommand(),
		sh.agentsCommand(),
		sh.auditCommand(),
		sh.policyCommand(),
		sh.doctorCommand(),
		sh.versionCommand(),
		newProxyCommand(),
	}
}

// unknownCommand answers a word that is no command with the nearest one, and no word with the help.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	return unknownError{kind: "command", name: args[0], known: commandNames(cmd), list: cmd.CommandPath() + " --help"}
}

func commandNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			names = append(names, c.Name())
		}
	}
	return names
}
