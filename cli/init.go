package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/examples"
	"github.com/superserve/superserve/runtime/agent"
	"github.com/superserve/superserve/secretd/api"
)

func (sh *shell) initCommand() *cobra.Command {
	var name, recipe string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a superserve.yaml for the project in this folder",
		Long: `Write a superserve.yaml for the project in this folder. Its name comes from the folder, its command
from the files that are there, its secrets from the keys of .env.example. With --for it is a recipe's:
` + strings.Join(examples.Names(), ", ") + `.`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error { return sh.init(name, recipe) },
	}
	cmd.Flags().StringVar(&recipe, "for", "", "write the recipe of `TOOL`")
	cmd.Flags().StringVar(&name, "name", "", "the agent's `NAME` (default: the folder's)")
	return cmd
}

func (sh *shell) init(name, recipe string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	if name == "" {
		name = nameOf(dir)
	}
	if err := api.CheckAgent(name); err != nil {
		return err
	}
	if recipe != "" {
		return sh.initRecipe(dir, name, recipe)
	}
	keys, err := exampleKeys(filepath.Join(dir, ".env.example"))
	if err != nil {
		return err
	}
	err = writeNew(filepath.Join(dir, agent.ManifestName), manifestText(name, guessCommand(dir), keys))
	if errors.Is(err, fs.ErrExist) {
		fmt.Fprintf(sh.out, "%s already exists in this directory.\n", agent.ManifestName)
		return nil
	}
	if err != nil {
		return err
	}
	sh.nextSteps(name, keys)
	return nil
}

func (sh *shell) nextSteps(name string, keys []string) {
	fmt.Fprintf(sh.out, "Created %s\n\nNext steps:\n", agent.ManifestName)
	if len(keys) == 0 {
		keys = []string{"ANTHROPIC_API_KEY"}
	}
	fmt.Fprintf(sh.out, "  1. Look at its command and secrets\n")
	fmt.Fprintf(sh.out, "  2. %s\n", setCommand(name, keys))
	fmt.Fprintf(sh.out, "  3. superserve run .\n")
}

// setCommand is the command line that sets the secrets, as it is shown wherever they are missing.
func setCommand(name string, keys []string) string {
	return fmt.Sprintf("superserve secrets set %s %s=...", name, strings.Join(keys, "=... "))
}

// writeNew writes a file that must not exist yet.
func writeNew(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// nameOf makes an agent's name of a folder's: lower case, everything but letters, digits and hyphens
// made a hyphen, and agent- before what does not start with a letter.
func nameOf(dir string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(filepath.Base(dir)))
	if name[0] < 'a' || name[0] > 'z' {
		name = "agent-" + name
	}
	return name[:min(len(name), 128)]
}

// guessCommand looks at which files are there; the first that matches is the likeliest start.
func guessCommand(dir string) string {
	for _, guess := range [][2]string{
		{"main.py", "python3 main.py"}, {"agent.py", "python3 agent.py"}, {"app.py", "python3 app.py"},
		{"index.js", "node index.js"}, {"index.mjs", "node index.mjs"}, {"main.js", "node main.js"},
		{"package.json", "npm start"}, {"main.sh", "sh main.sh"},
	} {
		if _, err := os.Stat(filepath.Join(dir, guess[0])); err == nil {
			return guess[1]
		}
	}
	return "python3 main.py"
}

// exampleKeys returns the keys of an .env.example, in order, once each; no file has none.
func exampleKeys(name string) ([]string, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var keys []string
	seen := map[string]bool{}
	lines := bufio.NewScanner(io.LimitReader(f, maxEnvFile))
	for lines.Scan() {
		key, _, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(lines.Text()), "export "), "=")
		if key = strings.TrimSpace(key); ok && api.CheckName(key) == nil && !seen[key] {
			seen[key] = true
			keys = append(keys, key)
		}
	}
	return keys, lines.Err()
}

func manifestText(name, command string, keys []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "name: %s\ncommand: %s\n", name, command)
	if len(keys) == 0 {
		b.WriteString("# secrets:\n#   - ANTHROPIC_API_KEY\n")
	} else {
		b.WriteString("secrets:\n")
		for _, key := range keys {
			fmt.Fprintf(&b, "  - %s\n", key)
		}
	}
	b.WriteString(`# ignore:               # left out of a deployment; .env* always is
#   - "*.log"
# network:
#   allow: [pypi.org]   # with the hosts of the secrets, all that the agent may reach
`)
	return b.String()
}
