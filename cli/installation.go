package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// managed are the folders below a home that hold programs and nothing else, one * a version or a program. What stands
// here is mounted whole. Of ~/.cargo, ~/go and ~/.local only single files are taken: they hold keys too.
var managed = []string{
	".nvm/versions/node/*", ".local/share/fnm/node-versions/*", ".local/state/fnm_multishells/*", ".fnm/node-versions/*",
	".volta", ".asdf", ".local/share/mise", ".local/share/rtx", ".pyenv", ".rbenv", ".bun", ".local/share/pnpm", ".npm-global",
	".local/share/claude", ".claude/local", ".local/share/cursor-agent", ".opencode", ".rustup/toolchains/*",
	".local/share/pipx/venvs/*", ".local/pipx/venvs/*", ".local/share/uv/tools/*", ".local/share/uv/python/*",
	".sdkman/candidates/*", "miniconda3", "anaconda3", "miniforge3",
}

// installation returns the folder that has to come with the program at name: "" when the sandbox has it already,
// name itself when its folder holds other things. The caller's home is never the answer.
func (c caller) installation(name string) string {
	if inSystem(name) {
		return ""
	}
	for _, home := range []string{c.home, "/root"} {
		if root := managedRoot(name, home); root != "" {
			return root
		}
	}
	if at := strings.Index(name, "/node_modules/"); at > 0 {
		if prefix, ok := strings.CutSuffix(name[:at], "/lib"); ok && executable(prefix+"/bin/node") && c.mayMount(prefix) {
			return prefix
		}
		return name[:at] + "/node_modules"
	}
	prefix := filepath.Dir(filepath.Dir(name))
	if filepath.Base(filepath.Dir(name)) == "bin" && c.mayMount(prefix) && selfContained(prefix) {
		return prefix
	}
	return name
}

// managedRoot matches name against managed.
func managedRoot(name, home string) string {
	rel, err := filepath.Rel(home, name)
	if home == "" || err != nil || !filepath.IsLocal(rel) {
		return ""
	}
	parts := strings.Split(rel, "/")
	for _, pattern := range managed {
		n := strings.Count(pattern, "/") + 1
		if len(parts) <= n {
			continue
		}
		if root := filepath.Join(parts[:n]...); globs(pattern, root) {
			return filepath.Join(home, root)
		}
	}
	return ""
}

func globs(pattern, name string) bool {
	ok, err := filepath.Match(pattern, name)
	return ok && err == nil
}

// mayMount reports whether a folder may be an installation at all: not a home, nor one that installations share.
func (c caller) mayMount(dir string) bool {
	if c.home != "" && (below(c.home, dir) || dir == filepath.Join(c.home, ".local")) || below("/root", dir) || dir == "/root/.local" {
		return false
	}
	return !slices.Contains(soleFolders, dir) && dir != "/usr/local"
}

// selfContained reports whether a folder with a bin looks like one program's own: a virtual environment of Python, or
// what brings its libraries along.
func selfContained(dir string) bool {
	for _, sign := range []string{"pyvenv.cfg", "lib", "libexec", "share"} {
		if _, err := os.Stat(filepath.Join(dir, sign)); err == nil {
			return true
		}
	}
	return false
}

// inSystem reports whether the sandbox has a path of the host by itself.
func inSystem(name string) bool {
	for _, dir := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"} {
		if below(name, dir) {
			return true
		}
	}
	return false
}
