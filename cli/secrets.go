package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/secretd/api"
)

func (sh *shell) secretsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secrets",
		Short: "Set, list, delete and bind an agent's secrets",
		Long: `Set, list, delete and bind an agent's secrets. They are kept by secretd, sealed, and never come back:
there is no command that prints a value.

On another host: --server https://HOST[:PORT] --cert FILE --cert-key FILE [--server-ca FILE], or SUPERSERVE_SERVER,
SUPERSERVE_CERT, SUPERSERVE_CERT_KEY and SUPERSERVE_SERVER_CA. See docs/SECRETD.md.`,
		RunE: unknownCommand,
		Args: cobra.ArbitraryArgs,
	}
	cmd.AddCommand(sh.secretsSetCommand(), sh.secretsListCommand(), sh.secretsDeleteCommand(), sh.secretsBindCommand(), sh.secretsImportCommand())
	return cmd
}

// bindFlags are the flags that say where a secret may go.
type bindFlags struct {
	hosts, uses         []string
	allowOwn, plaintext bool
}

func (b *bindFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&b.hosts, "host", nil, "send it to `HOST[:PORT]` only; *.example.com is any depth below (repeatable)")
	flags.StringArrayVar(&b.uses, "use", nil, "`PLACE` where it stands in a request: bearer, header:NAME, basic[:user|:password] … (repeatable)")
	flags.BoolVar(&b.allowOwn, "allow-own", false, "let the agent send credentials of its own to these hosts")
	flags.BoolVar(&b.plaintext, "plaintext", false, "send it without TLS too")
}

// binding returns what the flags say, nil when they say nothing.
func (b *bindFlags) binding() (*api.Binding, error) {
	if len(b.hosts) == 0 {
		if len(b.uses) > 0 || b.allowOwn || b.plaintext {
			return nil, fmt.Errorf("--use, --allow-own and --plaintext need a --host")
		}
		return nil, nil
	}
	binding := &api.Binding{AllowOwn: b.allowOwn, Plaintext: b.plaintext}
	for _, h := range b.hosts {
		p, err := api.ParsePattern(h)
		if err != nil {
			return nil, err
		}
		binding.Hosts = append(binding.Hosts, p)
	}
	for _, u := range b.uses {
		use, err := api.ParseUse(u)
		if err != nil {
			return nil, err
		}
		binding.Uses = append(binding.Uses, use)
	}
	return binding, binding.Check()
}

// adviseUnbound says of each secret that is bound to no host what that means and how to bind it.
func (sh *shell) adviseUnbound(ctx context.Context, agent string, names []string) error {
	infos, err := sh.secretsOf(ctx, agent)
	if err != nil {
		return err
	}
	for _, name := range names {
		if info, ok := infos[name]; ok && !info.Binding.Bound() {
			sh.adviseBind(agent, name)
		}
	}
	return nil
}

// adviseBind is the one place that words it.
func (sh *shell) adviseBind(agent, name string) {
	sh.note("%s is bound to no host, so the agent gets a placeholder that opens nothing. Bind it with:\n  %s", name, bindCommand(agent, name))
}

func bindCommand(agent, name string) string {
	return fmt.Sprintf("superserve secrets bind %s %s --host HOST", agent, name)
}

// secretsOf returns what secretd keeps for an agent, by name; an agent it does not know has none.
func (sh *shell) secretsOf(ctx context.Context, agent string) (map[string]api.Info, error) {
	infos, err := sh.listInfos(ctx, agent)
	byName := make(map[string]api.Info, len(infos))
	for _, info := range infos {
		byName[info.Name] = info
	}
	return byName, err
}

// storedInfos returns what secretd keeps for an agent, by name in their order, without starting a secretd where nothing
// was ever stored.
func (sh *shell) storedInfos(ctx context.Context, agent string) ([]api.Info, error) {
	p, err := sh.places()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(p.state, "secretd")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return sh.listInfos(ctx, agent)
}

// joinWords is the list of a sentence.
func joinWords(words []string) string { return strings.Join(words, ", ") }
