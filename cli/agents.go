package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/runtime/agent"
)

func (sh *shell) agentsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agents",
		Short: "List, show and delete deployed agents",
		RunE:  unknownCommand,
		Args:  cobra.ArbitraryArgs,
	}
	cmd.AddCommand(sh.agentsListCommand(), sh.agentsGetCommand(), sh.agentsDeleteCommand())
	return cmd
}

func (sh *shell) agentsListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the deployed agents",
		Args:  exactly(),
		RunE:  func(*cobra.Command, []string) error { return sh.listAgents(asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (sh *shell) listAgents(asJSON bool) error {
	registry, err := sh.registry()
	if err != nil {
		return err
	}
	agents, damaged := registry.List()
	if asJSON {
		if agents == nil {
			agents = []*agent.Agent{}
		}
		return errors.Join(sh.json(agents), damaged)
	}
	if len(agents) == 0 && damaged == nil {
		fmt.Fprintf(sh.out, "No agents found. Deploy one with:\n  superserve deploy\n")
		return nil
	}
	rows := make([][]string, 0, len(agents))
	for _, a := range agents {
		rows = append(rows, []string{a.Name, when(a.Deployed), size(a.Bytes), a.Source})
	}
	return errors.Join(sh.table([]string{"NAME", "DEPLOYED", "SIZE", "SOURCE"}, rows), damaged)
}

func (sh *shell) agentsGetCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "get AGENT",
		Short: "Show one agent",
		Args:  exactly("AGENT"),
		RunE:  func(_ *cobra.Command, args []string) error { return sh.getAgent(args[0], asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (sh *shell) getAgent(name string, asJSON bool) error {
	a, m, err := sh.findAgent(name)
	if err != nil {
		return err
	}
	secrets := make([]string, 0, len(m.Secrets))
	for _, s := range m.Secrets {
		secrets = append(secrets, s.Name)
	}
	if asJSON {
		return sh.json(struct {
			*agent.Agent
			Command []string `json:"command"`
			Secrets []string `json:"required_secrets"`
		}{a, m.Command.Vector(nil), secrets})
	}
	return sh.table([]string{"NAME", a.Name}, [][]string{
		{"SOURCE", a.Source},
		{"DEPLOYED", when(a.Deployed)},
		{"FILES", fmt.Sprintf("%d (%s)", a.Files, size(a.Bytes))},
		{"COMMAND", fmt.Sprintf("%q", m.Command.Vector(nil))},
		{"SECRETS", fmt.Sprint(secrets)},
	})
}

// findAgent returns a deployed agent and its manifest; a name that nothing has is an error that names
// the nearest one.
func (sh *shell) findAgent(name string) (*agent.Agent, *agent.Manifest, error) {
	registry, err := sh.registry()
	if err != nil {
		return nil, nil, err
	}
	a, err := registry.Get(name)
	if errors.Is(err, agent.ErrNotFound) {
		return nil, nil, sh.unknownAgent(registry, name)
	}
	if err != nil {
		return nil, nil, err
	}
	m, err := a.Manifest()
	return a, m, err
}

func (sh *shell) unknownAgent(registry *agent.Registry, name string) error {
	agents, _ := registry.List() // only for the advice
	e := unknownError{kind: "agent", name: name, list: "superserve agents list"}
	for _, a := range agents {
		e.known = append(e.known, a.Name)
	}
	return e
}

func (sh *shell) agentsDeleteCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete AGENT",
		Short: "Delete an agent's files; its secrets stay",
		Args:  exactly("AGENT"),
		RunE:  func(cmd *cobra.Command, args []string) error { return sh.deleteAgent(cmd.Context(), args[0], yes) },
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (sh *shell) deleteAgent(ctx context.Context, name string, yes bool) error {
	registry, err := sh.registry()
	if err != nil {
		return err
	}
	if _, err := registry.Get(name); errors.Is(err, agent.ErrNotFound) {
		return sh.unknownAgent(registry, name)
	}
	if !yes {
		if ok, err := sh.confirm(ctx, fmt.Sprintf("Delete agent '%s'?", name)); !ok {
			return err
		}
	}
	if err := registry.Delete(name); err != nil {
		return err
	}
	// Else the next agent of that name would have them.
	if err := sh.forgetAll(name); err != nil {
		return err
	}
	sh.done("Deleted agent '%s'", name)
	return nil
}
