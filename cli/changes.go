package cli

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/runtime/changes"
	"github.com/superserve/superserve/runtime/sandbox"
)

func (sh *shell) diffCommand() *cobra.Command {
	var patch, asJSON bool
	cmd := &cobra.Command{
		Use:   "diff RUN|AGENT",
		Short: "List what a run with --copy has changed",
		Long: `List what a run with --copy has changed and what of it was not taken over yet: A added, M modified,
D deleted, ! not to be taken over. Names are escaped. With --patch, the lines too; on a terminal they are escaped,
into a file or a pipe they go as they are.`,
		Args: exactly("RUN or AGENT"),
		RunE: func(_ *cobra.Command, args []string) error { return sh.diff(args[0], patch, asJSON) },
	}
	cmd.Flags().BoolVarP(&patch, "patch", "p", false, "print the changed lines of text files")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (sh *shell) applyCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "apply RUN|AGENT",
		Short: "Take over what a run with --copy has changed",
		Long: `Take over what a run with --copy has changed, into the folder that it ran in. Devices, pipes, sockets and links
out of the folder stay behind, and so do set-uid bits. When a file has changed in the folder since the run began,
nothing is taken over.`,
		Args: exactly("RUN or AGENT"),
		RunE: func(_ *cobra.Command, args []string) error { return sh.apply(args[0], force) },
	}
	cmd.Flags().BoolVar(&force, "force", false, "overwrite what has changed in the folder since")
	return cmd
}

// errNoChanges means that a run's changes were not kept apart.
var errNoChanges = errors.New("kept no changes apart")

// changesOf opens the changes of a run and lists them. The caller closes the set.
func (sh *shell) changesOf(id string) (*changes.Set, sandbox.Record, []changes.Change, error) {
	p, r, err := sh.findRun(id)
	if err != nil {
		return nil, r, nil, err
	}
	if !r.Changes {
		return nil, r, nil, fmt.Errorf("run %s %w", r.ID, errNoChanges)
	}
	set, err := changes.Open(sandbox.ChangesDir(p.state, r.ID), r.Dir, r.Started)
	if err != nil {
		return nil, r, nil, err
	}
	list, err := set.List()
	if err != nil {
		set.Close()
		return nil, r, nil, err
	}
	return set, r, list, nil
}

// changeRow is one change of `diff --json`.
type changeRow struct {
	Path     string `json:"path"`
	Kind     string `json:"kind"`
	Refused  string `json:"refused,omitempty"`
	Conflict bool   `json:"conflict,omitempty"`
}

func (sh *shell) diff(id string, patch, asJSON bool) error {
	set, _, list, err := sh.changesOf(id)
	if err != nil {
		return err
	}
	defer set.Close()
	if asJSON {
		rows := []changeRow{}
		for _, c := range list {
			rows = append(rows, changeRow{c.Path, string(c.Kind), c.Refused, c.Conflict})
		}
		return sh.json(rows)
	}
	for _, c := range list {
		if err := sh.printChange(set, c, patch); err != nil {
			return err
		}
	}
	sh.adviseRunning(list)
	return nil
}

func (sh *shell) printChange(set *changes.Set, c changes.Change, patch bool) error {
	if patch {
		text, err := set.Text(c, escapeLine(c.Path))
		if err != nil {
			return err
		}
		if isTerminal(sh.out) {
			text = escapeText(text)
		}
		if text != "" {
			_, err := io.WriteString(sh.out, text)
			return err
		}
	}
	_, err := fmt.Fprintln(sh.out, changeLine(c))
	return err
}

// changeLine is one line of the list.
func changeLine(c changes.Change) string {
	line := string(c.Kind) + " " + escapeLine(c.Path)
	switch {
	case c.Refused != "":
		line = "! " + escapeLine(c.Path) + " (" + c.Refused + ")"
	case c.Conflict:
		line += " (changed here since)"
	}
	return line
}

// adviseRunning names what tools of this machine execute by themselves when somebody works in the folder.
func (sh *shell) adviseRunning(list []changes.Change) {
	for _, c := range list {
		if c.Kind != changes.Deleted && c.Refused == "" && runsByItself(c.Path) {
			sh.note("%s is executed by tools of this machine: look at it before you take it over", escapeLine(c.Path))
		}
	}
}

// runsByItself knows the files that git, direnv, editors and package managers execute unasked.
func runsByItself(name string) bool {
	switch path.Base(name) {
	case ".envrc", ".gitmodules", ".npmrc", ".pre-commit-config.yaml", ".mise.toml", "mise.toml":
		return true
	}
	for _, end := range []string{"/.git/config", "/.git/info/attributes", "/.vscode/tasks.json", "/.vscode/settings.json"} {
		if strings.HasSuffix("/"+name, end) {
			return true
		}
	}
	return strings.Contains("/"+name, "/.git/hooks/") || strings.Contains("/"+name, "/.husky/")
}

func (sh *shell) apply(id string, force bool) error {
	if err := needRoot("superserve apply"); err != nil {
		return err
	}
	set, r, list, err := sh.changesOf(id)
	if err != nil {
		return err
	}
	defer set.Close()
	if r.Running {
		return fmt.Errorf("run %s still runs: superserve stop %s", r.ID, r.ID)
	}
	taken, refused := 0, 0
	for _, c := range list {
		if c.Refused == "" {
			taken++
			continue
		}
		refused++
		sh.warn("%s is not taken over: %s", escapeLine(c.Path), c.Refused)
	}
	sh.adviseRunning(list)
	if err := set.Apply(list, force); err != nil {
		return err
	}
	sh.done("Took over %d changes of %s into %s", taken, r.ID, escapeLine(r.Dir))
	if refused > 0 {
		return exitCode(exitError)
	}
	return nil
}
