package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/secretd/api"
)

func (sh *shell) secretsListCommand() *cobra.Command {
	var asJSON, wide bool
	cmd := &cobra.Command{
		Use:   "list AGENT",
		Short: "List the names of an agent's secrets",
		Args:  exactly("AGENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return sh.listSecrets(cmd.Context(), args[0], asJSON, wide)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&wide, "wide", false, "show hosts, uses, versions, times and, of secrets with limits, what was used today (UTC)")
	return cmd
}

func (sh *shell) listSecrets(ctx context.Context, agent string, asJSON, wide bool) error {
	if err := api.CheckAgent(agent); err != nil {
		return err
	}
	infos, err := sh.listInfos(ctx, agent)
	switch {
	case err != nil:
		return err
	case asJSON:
		return sh.json(infos)
	case len(infos) == 0:
		fmt.Fprintf(sh.out, "No secrets configured for agent '%s'\nSet secrets with:\n  %s\n", agent, setCommand(agent, []string{"KEY"}))
		return nil
	case wide:
		return sh.wideSecrets(infos)
	}
	fmt.Fprintf(sh.out, "Secrets for agent '%s':\n\nKey\n%s\n", agent, strings.Repeat("─", 20))
	for _, info := range infos {
		fmt.Fprintln(sh.out, info.Name)
	}
	return nil
}

func (sh *shell) wideSecrets(infos []api.Info) error {
	rows := make([][]string, 0, len(infos))
	for _, info := range infos {
		rows = append(rows, []string{
			info.Name, texts(info.Binding.Hosts), texts(info.Binding.Uses),
			fmt.Sprint(info.Version), when(info.SetAt), when(info.LastUsed), spend(info.Today),
		})
	}
	return sh.table([]string{"KEY", "HOSTS", "USE", "VERSION", "SET", "LAST USED", "USED TODAY"}, rows)
}

// texts joins the text forms of a list, "-" for an empty one.
func texts[T fmt.Stringer](list []T) string {
	if len(list) == 0 {
		return "-"
	}
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = v.String()
	}
	return joinWords(words)
}

// listInfos lists an agent's secrets; an agent that secretd does not know has none.
func (sh *shell) listInfos(ctx context.Context, agent string) ([]api.Info, error) {
	c, err := sh.secretd(ctx)
	if err != nil {
		return nil, err
	}
	infos, err := c.List(ctx, agent)
	if errors.Is(err, api.ErrNotFound) || infos == nil {
		infos = []api.Info{}
	}
	if errors.Is(err, api.ErrNotFound) {
		err = nil
	}
	return infos, err
}
