package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/superserve/superserve/examples"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/runtime/sandbox"
)

// complete lets a shell complete what the words of every command's usage and the values of its flags stand for.
func (sh *shell) complete(cmd *cobra.Command) {
	words := strings.Fields(cmd.Use)[1:]
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(words) {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return sh.known(words[len(args)])
	}
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		word, _ := pflag.UnquoteUsage(f)
		cmd.RegisterFlagCompletionFunc(f.Name, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return sh.known(word)
		})
	})
	for _, c := range cmd.Commands() {
		sh.complete(c)
	}
}

// known lists what a word of a usage, such as RUN or [AGENT|DIR], may be on this machine. What cannot be read here, for
// want of rights, is nothing: a shell has no place for an error.
func (sh *shell) known(word string) ([]string, cobra.ShellCompDirective) {
	var names []string
	directive := cobra.ShellCompDirectiveNoFileComp
	for _, kind := range strings.FieldsFunc(word, func(r rune) bool { return strings.ContainsRune("[]|.", r) }) {
		switch kind {
		case "AGENT":
			names = append(names, sh.agentNames()...)
		case "RUN":
			names = append(names, sh.runNames()...)
		case "TOOL":
			names = append(names, examples.Names()...)
		case "MODE":
			names = append(names, egress.ModeNone, egress.ModeBound, egress.ModePublic)
		default:
			directive = cobra.ShellCompDirectiveDefault
		}
	}
	return names, directive
}

func (sh *shell) agentNames() (names []string) {
	registry, err := sh.registry()
	if err != nil {
		return nil
	}
	agents, _ := registry.List()
	for _, a := range agents {
		names = append(names, a.Name)
	}
	return names
}

func (sh *shell) runNames() (names []string) {
	p, err := sh.places()
	if err != nil {
		return nil
	}
	records, _ := sandbox.List(p.state)
	for _, r := range records {
		names = append(names, cobra.CompletionWithDesc(r.ID, r.Agent+", "+status(r)))
	}
	return names
}
