// Package examples holds the recipes of `superserve init --for`: a superserve.yaml for each coding agent that people use,
// one folder a recipe.
package examples

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

//go:embed */superserve.yaml
var files embed.FS

// ErrUnknown means that there is no recipe of that name.
var ErrUnknown = errors.New("no such recipe")

// Recipe is how one tool is run.
type Recipe struct {
	Name    string
	Program string // the command that has to be on PATH
	Install string // the command that puts it there
	text    string
}

// Names lists the recipes.
func Names() []string {
	found, err := fs.Glob(files, "*/superserve.yaml")
	if err != nil {
		panic("examples: " + err.Error())
	}
	for i, name := range found {
		found[i] = path.Dir(name)
	}
	return found
}

// Get returns a recipe, or ErrUnknown.
func Get(name string) (Recipe, error) {
	if !slices.Contains(Names(), name) {
		return Recipe{}, fmt.Errorf("%w: %q", ErrUnknown, name)
	}
	text, err := files.ReadFile(path.Join(name, "superserve.yaml"))
	if err != nil {
		return Recipe{}, err
	}
	r := Recipe{Name: name, text: string(text)}
	for line := range strings.Lines(r.text) {
		if _, install, ok := strings.Cut(line, "Install it: "); ok {
			r.Install = strings.TrimSpace(install)
		}
		if command, ok := strings.CutPrefix(line, "command: "); ok {
			r.Program = strings.Fields(strings.Trim(command, "[]\n"))[0]
			r.Program = strings.TrimSuffix(r.Program, ",")
		}
	}
	return r, nil
}

// For returns the recipe whose program is called name, and whether there is one.
func For(name string) (Recipe, bool) {
	for _, n := range Names() {
		if r, err := Get(n); err == nil && r.Program == name {
			return r, true
		}
	}
	return Recipe{}, false
}

// Manifest is the recipe's superserve.yaml for an agent of a name.
func (r Recipe) Manifest(agent string) string {
	text := strings.Replace(r.text, "\nname: "+r.Name+"\n", "\nname: "+agent+"\n", 1)
	return strings.ReplaceAll(text, " set NAME ", " set "+agent+" ")
}
