package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/runtime/agent"
	"github.com/superserve/superserve/secretd/api"
)

func (sh *shell) deployCommand() *cobra.Command {
	var name string
	var yes bool
	cmd := &cobra.Command{
		Use:   "deploy [DIR]",
		Short: "Take a copy of a project, to be run by its name",
		Long: `Take a copy of a project, to be run by its name. What superserve.yaml ignores stays out, and so do
.git, caches and every file whose name begins with .env. Agents that run keep the files they began with.

Where secretd has a store that several hosts share, the copy goes there: every host runs the agent from then on, none
of them half of it. With --server that can be done from anywhere.`,
		Args: atMostOne("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) > 0 {
				dir = args[0]
			}
			return sh.deploy(cmd.Context(), dir, name, yes)
		},
	}
	cmd.Flags().StringVarP(&name, "name", "n", "", "deploy under another `NAME` than superserve.yaml's")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "replace an agent of that name without asking")
	return cmd
}

func (sh *shell) deploy(ctx context.Context, dir, name string, yes bool) error {
	m, err := loadProject(dir, name)
	if err != nil {
		return err
	}
	registry, err := sh.registry()
	if err != nil {
		return err
	}
	old, shared, err := sh.sharedAgent(ctx, m.Name)
	damaged := errors.Is(err, api.ErrDamaged) // to deploy again is the way out
	if err != nil && !damaged {
		return err
	}
	exists := old != nil || damaged
	if !shared {
		_, err := registry.Get(m.Name)
		exists = err == nil
	}
	if exists && !yes {
		if ok, err := sh.confirm(ctx, fmt.Sprintf("Agent '%s' already exists. Redeploy?", m.Name)); !ok {
			return err
		}
	}
	if shared {
		err = sh.publish(ctx, m, dir, old)
	} else {
		err = sh.deployHere(ctx, registry, m, dir)
	}
	if err != nil {
		return err
	}
	return sh.remindSecrets(ctx, m)
}

// deployHere makes a project an agent of this host.
func (sh *shell) deployHere(ctx context.Context, registry *agent.Registry, m *agent.Manifest, dir string) error {
	a, err := sh.register(ctx, registry, m, dir)
	if err != nil {
		return err
	}
	sh.done("Deployed '%s' (%d files, %s)", a.Name, a.Files, size(a.Bytes))
	return nil
}

// loadProject reads a project's manifest; name, if given, takes the place of the one in the file.
func loadProject(dir, name string) (*agent.Manifest, error) {
	if name != "" {
		if err := api.CheckAgent(name); err != nil {
			return nil, err
		}
	}
	m, err := readProject(dir)
	if err == nil && name != "" {
		m.Name = name
	}
	return m, err
}

// readProject reads a project's manifest, and judges what of it only the proxy knows: better here than when it starts.
func readProject(dir string) (*agent.Manifest, error) {
	m, err := agent.Load(dir)
	if err != nil {
		return nil, err
	}
	if _, err := policyFor(networkOf(m.Network), nil, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", agent.ManifestName, err)
	}
	return m, nil
}

// register deploys and says what was left out because a copy of it means nothing.
func (sh *shell) register(ctx context.Context, registry *agent.Registry, m *agent.Manifest, dir string) (*agent.Agent, error) {
	a, err := registry.Deploy(ctx, m.Name, dir, m.Ignore)
	if err != nil {
		return nil, err
	}
	sh.noteSpecial(a.Special)
	return a, nil
}

func (sh *shell) noteSpecial(names []string) {
	for _, name := range names {
		sh.note("%s is no regular file and was left out", escapeLine(name))
	}
}

// remindSecrets names the command that sets what the agent still lacks.
func (sh *shell) remindSecrets(ctx context.Context, m *agent.Manifest) error {
	if len(m.Secrets) == 0 {
		return nil
	}
	have, err := sh.secretsOf(ctx, m.Name)
	if err != nil {
		return err
	}
	var missing []string
	for _, s := range m.Secrets {
		if _, ok := have[s.Name]; !ok {
			missing = append(missing, s.Name)
		}
	}
	if len(missing) > 0 {
		fmt.Fprintf(sh.out, "Set your secrets before running:\n  %s\n", setCommand(m.Name, missing))
	}
	return nil
}

// errOtherSource means that a folder names itself like an agent that came from another folder.
var errOtherSource = errors.New("is deployed from another folder")

// deployFrom deploys dir for `run DIR`: silently where the agent came from the same folder before. A
// folder that calls itself like an agent from elsewhere would be handed that agent's secrets, so this
// is the operator's decision, by `deploy`. It is for this host alone: the others run what was deployed.
func (sh *shell) deployFrom(ctx context.Context, registry *agent.Registry, dir string) (*agent.Agent, error) {
	m, err := readProject(dir)
	if err != nil {
		return nil, err
	}
	source, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := sh.checkSource(ctx, registry, m.Name, source, errOtherSource); err != nil {
		return nil, err
	}
	return sh.register(ctx, registry, m, dir)
}
