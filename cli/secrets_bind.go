package cli

import (
	"cmp"
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/secretd/api"
)

func (sh *shell) secretsBindCommand() *cobra.Command {
	var f bindFlags
	cmd := &cobra.Command{
		Use:   "bind AGENT KEY --host HOST",
		Short: "Say which hosts a secret may go to, and where in a request",
		Example: `  superserve secrets bind my-agent API_TOKEN --host api.example.com
  superserve secrets bind my-agent API_TOKEN --host '*.example.com' --use header:x-api-key`,
		Args: exactly("AGENT", "KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return sh.bindSecret(cmd.Context(), args[0], args[1], f)
		},
	}
	f.register(cmd)
	return cmd
}

func (sh *shell) bindSecret(ctx context.Context, agent, key string, f bindFlags) error {
	if err := cmp.Or(api.CheckAgent(agent), api.CheckName(key)); err != nil {
		return err
	}
	binding, err := f.binding()
	if err != nil {
		return err
	}
	if binding == nil {
		return usageError{"superserve secrets bind", "missing --host"}
	}
	c, err := sh.secretd(ctx)
	if err != nil {
		return err
	}
	err = c.Bind(ctx, agent, key, *binding)
	if errors.Is(err, api.ErrNotFound) {
		return sh.unknownSecret(ctx, agent, key)
	}
	if err != nil {
		return err
	}
	sh.done("Bound %s of agent '%s' to %s", key, agent, texts(binding.Hosts))
	return nil
}
