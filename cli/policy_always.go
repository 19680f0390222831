package cli

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/secretd/api"
)

func (sh *shell) policyAlwaysCommand() *cobra.Command {
	var forget []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "always AGENT",
		Short: "List what you always allowed an agent when you were asked, or take it back",
		Long: `List the destinations that you allowed an agent by answering "always" when its run asked you, beside what its
superserve.yaml allows; or take some back, for the runs that begin from now on.`,
		Example: `  superserve policy always my-agent
  superserve policy always my-agent --forget api.example.com:443`,
		Args: exactly("AGENT"),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(forget) > 0 {
				return sh.forgetAllowed(args[0], forget)
			}
			return sh.listAllowed(args[0], asJSON)
		},
	}
	cmd.Flags().StringArrayVar(&forget, "forget", nil, "take `HOST[:PORT]` back (repeatable)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (sh *shell) listAllowed(name string, asJSON bool) error {
	kept, err := sh.allowedOf(name)
	if err != nil {
		return err
	}
	if asJSON {
		return sh.json(append([]string{}, kept...))
	}
	if len(kept) == 0 {
		fmt.Fprintf(sh.out, "You have not always allowed agent '%s' anything.\n", name)
	}
	for _, target := range kept {
		fmt.Fprintln(sh.out, escapeLine(target))
	}
	return nil
}

// allowedOf is keptAllowed of the places in use.
func (sh *shell) allowedOf(name string) ([]string, error) {
	p, err := sh.places()
	if err != nil {
		return nil, err
	}
	return keptAllowed(p.state, name)
}

// forgetAll takes all back from an agent.
func (sh *shell) forgetAll(name string) error {
	p, err := sh.places()
	if err != nil {
		return err
	}
	return keepAllowed(p.state, name, func([]string) ([]string, error) { return nil, nil })
}

func (sh *shell) forgetAllowed(name string, targets []string) error {
	if err := needRoot("superserve policy always --forget"); err != nil {
		return err
	}
	p, err := sh.places()
	if err != nil {
		return err
	}
	if err := api.CheckAgent(name); err != nil {
		return err
	}
	return keepAllowed(p.state, name, func(kept []string) ([]string, error) {
		for _, target := range targets {
			host, _, port, err := parseDestination(target)
			if err != nil {
				return nil, err
			}
			at := slices.Index(kept, net.JoinHostPort(string(host), strconv.Itoa(int(port))))
			if at < 0 {
				return nil, fmt.Errorf("agent '%s' is not always allowed %s", name, escapeLine(target))
			}
			kept = slices.Delete(kept, at, at+1)
		}
		sh.done("Took back %s from agent '%s', for its next runs", joinWords(targets), name)
		return kept, nil
	})
}
