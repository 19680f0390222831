package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/runtime/agent"
	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
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
		RunE:  func(cmd *cobra.Command, _ []string) error { return sh.listAgents(cmd.Context(), asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (sh *shell) listAgents(ctx context.Context, asJSON bool) error {
	agents, damaged := sh.allAgents(ctx)
	if agents == nil {
		return damaged
	}
	if asJSON {
		return errors.Join(sh.json(agents), damaged)
	}
	if len(agents) == 0 && damaged == nil {
		fmt.Fprintf(sh.out, "No agents found. Deploy one with:\n  superserve deploy\n")
		return nil
	}
	rows := make([][]string, 0, len(agents))
	for _, a := range agents {
		rows = append(rows, []string{a.Name, when(a.Deployed), size(a.Bytes), escapeLine(origin(a.Source, a.Host, a.Elsewhere))})
	}
	return errors.Join(sh.table([]string{"NAME", "DEPLOYED", "SIZE", "SOURCE"}, rows), damaged)
}

// allAgents returns the agents of the shared store and those of this host alone; nil with an error when it is not known
// which there are. What is damaged is in the error, beside the others.
func (sh *shell) allAgents(ctx context.Context) ([]*agent.Agent, error) {
	var infos []api.Agent
	shared, err := sh.ask(ctx, func(c *client.Client) (err error) { infos, err = c.Agents(ctx); return err })
	if err != nil {
		return nil, err
	}
	agents := []*agent.Agent{}
	taken := map[string]bool{}
	for _, info := range infos {
		taken[info.Name] = true
		agents = append(agents, agent.Describe(info))
	}
	if sh.remote.server != "" {
		return agents, nil
	}
	registry, err := sh.registry()
	if err != nil {
		return nil, err
	}
	own, damaged := registry.List()
	for _, a := range own {
		if !taken[a.Name] && !(shared && a.Shared()) { // a copy of what was deleted is none
			agents = append(agents, a)
		}
	}
	slices.SortFunc(agents, func(a, b *agent.Agent) int { return strings.Compare(a.Name, b.Name) })
	return agents, damaged
}

func (sh *shell) agentsGetCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "get AGENT",
		Short: "Show one agent",
		Args:  exactly("AGENT"),
		RunE:  func(cmd *cobra.Command, args []string) error { return sh.getAgent(cmd.Context(), args[0], asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (sh *shell) getAgent(ctx context.Context, name string, asJSON bool) error {
	a, command, secrets, err := sh.describe(ctx, name)
	if err != nil {
		return err
	}
	if asJSON {
		return sh.json(struct {
			*agent.Agent
			Command []string `json:"command"`
			Secrets []string `json:"required_secrets"`
		}{a, command, secrets})
	}
	return sh.table([]string{"NAME", a.Name}, [][]string{
		{"SOURCE", escapeLine(origin(a.Source, a.Host, a.Elsewhere))},
		{"DEPLOYED", when(a.Deployed)},
		{"FILES", fmt.Sprintf("%d (%s)", a.Files, size(a.Bytes))},
		{"COMMAND", fmt.Sprintf("%q", command)},
		{"SECRETS", fmt.Sprint(secrets)},
	})
}

// describe returns what is known of an agent, with the command and the names of the secrets in its manifest. An agent
// of a shared store is not fetched for that.
func (sh *shell) describe(ctx context.Context, name string) (a *agent.Agent, command, secrets []string, err error) {
	info, _, err := sh.sharedAgent(ctx, name)
	if err != nil {
		return nil, nil, nil, err
	}
	if info != nil {
		return agent.Describe(*info), info.Command, info.Secrets, nil
	}
	if sh.remote.server != "" {
		return nil, nil, nil, sh.unknownAgent(ctx, name)
	}
	a, m, err := sh.agent(ctx, name)
	if err != nil {
		return nil, nil, nil, err
	}
	secrets = make([]string, 0, len(m.Secrets))
	for _, s := range m.Secrets {
		secrets = append(secrets, s.Name)
	}
	return a, m.Command.Vector(nil), secrets, nil
}

// agent returns a deployed agent, which is on this host then, and its manifest; a name that nothing has is an error
// that names the nearest one.
func (sh *shell) agent(ctx context.Context, name string) (*agent.Agent, *agent.Manifest, error) {
	registry, err := sh.registry()
	if err != nil {
		return nil, nil, err
	}
	a, err := sh.deployed(ctx, registry, name)
	if errors.Is(err, agent.ErrNotFound) {
		return nil, nil, sh.unknownAgent(ctx, name)
	}
	if err != nil {
		return nil, nil, err
	}
	m, err := a.Manifest()
	return a, m, err
}

func (sh *shell) unknownAgent(ctx context.Context, name string) error {
	agents, _ := sh.allAgents(ctx) // only for the advice
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
		Short: "Delete an agent's files, on every host that shares it; its secrets stay",
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
	info, shared, err := sh.sharedAgent(ctx, name)
	damaged := errors.Is(err, api.ErrDamaged) // which is a reason to delete it
	if err != nil && !damaged {
		return err
	}
	_, err = registry.Get(name)
	if info == nil && !damaged && (sh.remote.server != "" || errors.Is(err, agent.ErrNotFound)) {
		return sh.unknownAgent(ctx, name)
	}
	if !yes {
		if ok, err := sh.confirm(ctx, fmt.Sprintf("Delete agent '%s'?", name)); !ok {
			return err
		}
	}
	if info != nil || damaged {
		if shared, err = sh.ask(ctx, func(c *client.Client) error { return c.DeleteAgent(ctx, name) }); err != nil {
			return fmt.Errorf("delete agent '%s': %w", name, err)
		}
	}
	if sh.remote.server == "" {
		// The copies of other hosts go with their next run of the name. This host's may not be there, or not ours to remove.
		if err := sh.deleteHere(registry, name); err != nil && !shared {
			return err
		}
	}
	sh.done("Deleted agent '%s'", name)
	return nil
}

// deleteHere removes what this host has of an agent.
func (sh *shell) deleteHere(registry *agent.Registry, name string) error {
	if err := registry.Delete(name); err != nil {
		return err
	}
	return sh.forgetAll(name) // else the next agent of that name would have them
}
