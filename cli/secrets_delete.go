package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/secretd/api"
)

func (sh *shell) secretsDeleteCommand() *cobra.Command {
	var yes, now bool
	cmd := &cobra.Command{
		Use:   "delete AGENT KEY",
		Short: "Delete a secret, in running agents too",
		Args:  exactly("AGENT", "KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return sh.deleteSecret(cmd.Context(), args[0], args[1], yes, now)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&now, "now", false, "end the connections that carry it as well")
	return cmd
}

func (sh *shell) deleteSecret(ctx context.Context, agent, key string, yes, now bool) error {
	if err := cmp.Or(api.CheckAgent(agent), api.CheckName(key)); err != nil {
		return err
	}
	if !yes {
		if ok, err := sh.confirm(ctx, fmt.Sprintf("Delete secret '%s' from agent '%s'?", key, agent)); !ok {
			return err
		}
	}
	c, err := sh.secretd(ctx)
	if err != nil {
		return err
	}
	remaining, err := c.Delete(ctx, agent, key, now)
	if errors.Is(err, api.ErrNotFound) {
		return sh.unknownSecret(ctx, agent, key)
	}
	if err != nil {
		return err
	}
	sh.done("Deleted secret '%s' from agent '%s'", key, agent)
	if len(remaining) > 0 {
		fmt.Fprintf(sh.out, "Remaining secrets: %s\n", joinWords(remaining))
	}
	return nil
}

// unknownSecret is the error of a key that the agent does not have; it names the nearest.
func (sh *shell) unknownSecret(ctx context.Context, agent, key string) error {
	infos, err := sh.listInfos(ctx, agent)
	if err != nil {
		return err
	}
	e := unknownError{kind: "secret", name: key, list: "superserve secrets list " + agent}
	for _, info := range infos {
		e.known = append(e.known, info.Name)
	}
	return e
}
