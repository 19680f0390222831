package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/superserve/superserve/examples"
	"github.com/superserve/superserve/runtime/agent"
	"github.com/superserve/superserve/runtime/sandbox"
)

// program is a command of the caller's machine as the sandbox gets it: what is executed, which folders of the
// machine have to be there, at their own paths, and which of those come first in PATH.
type program struct {
	command string
	roots   []string
	path    []string
}

// programDirs are the folders below a home where installers and version managers put programs. Under sudo, and
// from a desktop's menu, they are not on PATH.
var programDirs = []string{
	".local/bin", "bin", ".bun/bin", ".deno/bin", ".volta/bin", ".asdf/shims", ".local/share/mise/shims", ".pyenv/shims",
	".rbenv/shims", ".cargo/bin", "go/bin", ".npm-global/bin", ".local/share/pnpm", ".opencode/bin", ".claude/local",
	".nvm/versions/node/*/bin", ".local/share/fnm/aliases/default/bin", "n/bin", "miniconda3/bin", "anaconda3/bin",
}

// search returns the folders in which the caller's programs are looked for.
func (c caller) search() []string {
	dirs := c.path()
	if c.home != "" {
		for _, pattern := range programDirs {
			found, _ := filepath.Glob(filepath.Join(c.home, pattern))
			slices.Reverse(found) // of several versions of Node the last name; it is a guess
			dirs = append(dirs, found...)
		}
	}
	return append(dirs, "/usr/local/bin", "/usr/bin", "/bin")
}

// noCommandError is a command that is neither on the caller's PATH nor in the sandbox's.
type noCommandError struct{ name, near, install string }

// Error names the command.
func (e noCommandError) Error() string { return escapeLine(e.name) + ": command not found" }

// Is matches errNoCommand.
func (e noCommandError) Is(target error) bool { return target == errNoCommand }

var errNoCommand = errors.New("command not found")

// program finds a command as the caller's shell would, and what it needs of their machine. workspace is the folder
// that is /workspace in the sandbox. A relative path is the sandbox's own affair.
func (c caller) program(name, workspace string) (program, error) {
	full := name
	switch {
	case name == "":
		return program{}, noCommandError{name: "''"}
	case strings.Contains(name, "/") && !filepath.IsAbs(name):
		return program{command: name}, nil
	case !strings.Contains(name, "/"):
		if full = find(name, c.search()); full == "" {
			recipe, _ := examples.For(name)
			return program{}, noCommandError{name, agent.Nearest(name, c.commands()), recipe.Install}
		}
	}
	if full = filepath.Clean(full); below(full, workspace) {
		rel, _ := filepath.Rel(workspace, full)
		return program{command: path.Join("/workspace", rel)}, nil
	}
	p := program{command: full}
	err := c.install(&p, full, 0)
	if p.command == filepath.Join("/usr/bin", name) {
		p.command = name // the sandbox's own way to it, links of /bin and the like included
	}
	return p, err
}

// find returns the first executable file of that name.
func find(name string, dirs []string) string {
	for _, dir := range dirs {
		if full := filepath.Join(dir, name); executable(full) {
			return full
		}
	}
	return ""
}

// commands lists the names of the caller's programs.
func (c caller) commands() []string {
	var names []string
	for _, dir := range c.search() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	return names
}

// maxInterpreters bounds the chain of scripts whose interpreters are scripts (4 in Linux, fs/exec.c), and maxLinks that
// of symbolic links.
const (
	maxInterpreters = 4
	maxLinks        = 40
)

// install notes what the file at full needs: the installation that each link on the way to it lies in, and what its
// first line names as its interpreter.
func (c caller) install(p *program, full string, depth int) error {
	chain, err := links(full)
	if err != nil {
		return err
	}
	final := chain[len(chain)-1]
	whole := true // the sandbox can follow every link
	for _, name := range chain[:len(chain)-1] {
		root := c.installation(name)
		if root != "" && root == name {
			whole = false // a link in a folder that holds more than this program
			continue
		}
		p.add(root)
	}
	p.add(c.installation(final))
	if !whole {
		full = final
	}
	if !inSystem(full) {
		p.path = append(p.path, filepath.Dir(full))
	}
	if depth == 0 {
		p.command = full
	}
	if depth == maxInterpreters {
		return nil
	}
	return c.interpreter(p, final, depth)
}

func (p *program) add(root string) {
	if root != "" && !slices.Contains(p.roots, root) {
		p.roots = append(p.roots, root)
	}
}

// interpreter follows a script's first line.
func (c caller) interpreter(p *program, script string, depth int) error {
	words, err := shebang(script)
	if err != nil || len(words) == 0 {
		return err
	}
	name := words[0]
	if path.Base(name) == "env" {
		words = slices.DeleteFunc(words[1:], func(w string) bool { return w[0] == '-' || strings.Contains(w, "=") })
		if len(words) == 0 {
			return nil
		}
		// Beside the script first: where a version manager keeps several Nodes, each has its own programs.
		name = find(words[0], append([]string{filepath.Dir(p.command)}, c.search()...))
	}
	if !filepath.IsAbs(name) || !executable(name) {
		return nil // the sandbox will say what it lacks
	}
	return c.install(p, name, depth+1)
}

// shebang returns the words of a script's first line, none if it is no script.
func shebang(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", name, err)
	}
	defer f.Close()
	const longest = 256 // BINPRM_BUF_SIZE, binfmt_script.c
	line, err := bufio.NewReader(io.LimitReader(f, longest)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("look at %s: %w", name, err)
	}
	rest, ok := strings.CutPrefix(line, "#!")
	if !ok {
		return nil, nil
	}
	return strings.Fields(rest), nil
}

// links returns full and what each symbolic link leads to, the file itself last. Links among the folders on the way
// are resolved in all but the first.
func links(full string) ([]string, error) {
	chain := []string{full}
	for range maxLinks {
		to, err := os.Readlink(full)
		if err != nil {
			real, err := filepath.EvalSymlinks(full)
			if err != nil {
				return nil, fmt.Errorf("find %s: %w", full, err)
			}
			if real != full {
				chain = append(chain, real)
			}
			return chain, nil
		}
		if !filepath.IsAbs(to) {
			dir, err := filepath.EvalSymlinks(filepath.Dir(full))
			if err != nil {
				return nil, fmt.Errorf("find %s: %w", full, err)
			}
			to = filepath.Join(dir, to)
		}
		full = to
		chain = append(chain, full)
	}
	return nil, fmt.Errorf("find %s: too many links", chain[0])
}

// mounts shows the program's installation, read-only, where it is on this machine. What lies in another of the
// folders comes with that one.
func (p program) mounts() []sandbox.Mount {
	slices.Sort(p.roots)
	var out []sandbox.Mount
	for _, root := range p.roots {
		if n := len(out); n > 0 && below(root, out[n-1].Source) {
			continue
		}
		out = append(out, sandbox.Mount{Source: root, Destination: root, ReadOnly: true})
	}
	return out
}
