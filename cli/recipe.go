package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/superserve/superserve/examples"
	"github.com/superserve/superserve/runtime/agent"
)

// initRecipe writes the superserve.yaml of a tool that people use, and says how to install it where it is not.
func (sh *shell) initRecipe(dir, name, recipe string) error {
	r, err := examples.Get(recipe)
	if errors.Is(err, examples.ErrUnknown) {
		return unknownError{kind: "recipe", name: recipe, known: examples.Names(), list: "superserve init --help"}
	}
	if err != nil {
		return err
	}
	err = writeNew(filepath.Join(dir, agent.ManifestName), r.Manifest(name))
	if errors.Is(err, fs.ErrExist) {
		fmt.Fprintf(sh.out, "%s already exists in this directory.\n", agent.ManifestName)
		return nil
	}
	if err != nil {
		return err
	}
	if find(r.Program, whoCalls().search()) == "" {
		sh.note("%s is not installed: %s", r.Program, r.Install)
	}
	m, err := agent.Load(dir)
	if err != nil {
		return err
	}
	var keys []string
	for _, s := range m.Secrets {
		keys = append(keys, s.Name)
	}
	fmt.Fprintf(sh.out, "Created %s\n\nNext steps:\n  1. %s\n  2. superserve run --workspace . .\n", agent.ManifestName, setCommand(name, keys))
	return nil
}

// adviseVariable says when a tool reads another variable than the one that it is given.
func (sh *shell) adviseVariable(program string, names map[string]bool) {
	if filepath.Base(program) == "codex" && names["OPENAI_API_KEY"] && !names["CODEX_API_KEY"] {
		sh.note("codex sends nothing with OPENAI_API_KEY alone: give it CODEX_API_KEY")
	}
}
