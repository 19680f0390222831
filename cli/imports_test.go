package cli

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/superserve/superserve"

// rule forbids the packages under from to import anything under to, but for the packages in except.
type rule struct {
	from, to string
	except   []string
	because  string
}

// rules are the edges that carry the security argument of docs/ARCHITECTURE.md.
var rules = []rule{
	{"", module + "/secretd/store", []string{"secretd", "cli/secretd"}, "no other process can open the vault, even by mistake"},
	{"", module + "/secretd/seal", []string{"secretd", "cli/secretd"}, "no other process can open the vault, even by mistake"},
	{"secretd", module + "/proxy", nil, "the keeper of keys links no parser of hostile bytes"},
	{"secretd", module + "/runtime", nil, "the keeper of keys starts nothing"},
	{"secretd", module + "/bpf", nil, "the keeper of keys loads nothing into the kernel"},
	{"cli/secretd", module + "/proxy", nil, "the keeper of keys links no parser of hostile bytes"},
	{"cli/secretd", module + "/runtime", nil, "the keeper of keys starts nothing"},
	{"cli/secretd", module + "/bpf", nil, "the keeper of keys loads nothing into the kernel"},
	{"proxy", module + "/runtime", nil, "the proxy is tested on any machine"},
	{"proxy", module + "/bpf", nil, "the original destination is a func field"},
	{"runtime", module + "/proxy", nil, "the supervisor links no parser of hostile bytes"},
	{"secretd/journal", module + "/proxy", nil, "the supervisor seals what the proxy writes, and links none of it"},
	{"secretd/journal", module + "/runtime", nil, "the proxy writes what the supervisor seals, and links none of it"},
	{"bpf", module + "/runtime", nil, "the redirect stands alone"},
	{"bpf", module + "/proxy", nil, "the redirect stands alone"},
	{"bpf", module + "/secretd", nil, "the redirect stands alone"},
	{"", module + "/cli", []string{"cli"}, "the command line is the top"},
	{"", "github.com/spf13", []string{"cli"}, "flags are parsed in one place"},
	{"", "github.com/cilium/ebpf", []string{"bpf"}, "one package loads programs"},
	{"", "github.com/vishvananda", []string{"runtime/netns"}, "one package changes networks"},
	{"", "gvisor.dev/gvisor", []string{"cli/superserve"}, "gVisor is a process, not a library"},
	{"", "go.etcd.io/etcd", []string{"secretd/store/etcd"}, "a store's engine is its driver's alone"},
	{"", "go.etcd.io/bbolt", []string{"secretd/store/bolt"}, "a store's engine is its driver's alone"},
}

// source is one parsed Go file of the module.
type source struct {
	name string // slash-separated, from the module's root
	file *ast.File
	text *token.File
}

func (s source) pkg() string             { return path.Dir(s.name) }
func (s source) test() bool              { return strings.HasSuffix(s.name, "_test.go") }
func (s source) wrote() bool             { return !ast.IsGenerated(s.file) }
func (s source) line(p token.Pos) string { return s.name + ":" + strconv.Itoa(s.text.Line(p)) }

// sources parses every Go file of the module. It reads the files itself: a test that asked `go list`
// would be answered from go test's cache after the rule was broken.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	set := token.NewFileSet()
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); base == "node_modules" || base == "testdata" || strings.HasPrefix(base, ".") && base != ".." {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parser.ParseFile(set, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		all = append(all, source{strings.TrimPrefix(filepath.ToSlash(name), "../"), f, set.File(f.Pos())})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("found %d sources: the test looks in the wrong place", len(all))
	}
	return all
}

// under reports whether the path p is dir or below it.
func under(p, dir string) bool {
	dir = strings.TrimSuffix(dir, "/")
	return dir == "" || p == dir || strings.HasPrefix(p, dir+"/")
}

func (r rule) forbids(pkg, imported string) bool {
	if !under(pkg, r.from) || !under(imported, r.to) {
		return false
	}
	return !slices.ContainsFunc(r.except, func(e string) bool { return under(pkg, e) })
}

func TestImportsKeepTheEdges(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() {
			continue // a test may stand a part beside any other
		}
		for _, spec := range s.file.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			for _, r := range rules {
				if r.forbids(s.pkg(), imported) {
					t.Errorf("%s imports %s: %s", s.line(spec.Pos()), imported, r.because)
				}
			}
		}
	}
}

func TestRulesForbid(t *testing.T) {
	for _, edge := range [][2]string{
		{"proxy/web", module + "/bpf"}, {"cli", module + "/secretd/store/bolt"}, {"runtime/sandbox", module + "/proxy/ca"},
		{"secretd/audit", module + "/proxy"}, {"proxy", "github.com/spf13/cobra"}, {"runtime/cgroup", "github.com/cilium/ebpf/link"},
		{"bpf", module + "/runtime/netns"}, {"runtime/agent", module + "/cli"},
	} {
		if !slices.ContainsFunc(rules, func(r rule) bool { return r.forbids(edge[0], edge[1]) }) {
			t.Errorf("no rule forbids %s to import %s", edge[0], edge[1])
		}
	}
	for _, edge := range [][2]string{
		{"secretd", module + "/secretd/store"}, {"cli/secretd", module + "/secretd/seal"}, {"bpf", "github.com/cilium/ebpf"}, {"cli", module + "/runtime/sandbox"},
	} {
		for _, r := range rules {
			if r.forbids(edge[0], edge[1]) {
				t.Errorf("%+v forbids %s to import %s", r, edge[0], edge[1])
			}
		}
	}
}

// TestImportsHaveNoCycle looks at packages with their tests, which the compiler does not: such a cycle
// means that two packages cannot be understood one after the other.
func TestImportsHaveNoCycle(t *testing.T) {
	edges := map[string][]string{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		for _, spec := range s.file.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			if to, ours := strings.CutPrefix(imported, module+"/"); ours {
				edges[s.pkg()] = append(edges[s.pkg()], to)
			}
		}
	}
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(p string, trail []string)
	visit = func(p string, trail []string) {
		if state[p] == visiting {
			t.Errorf("a cycle: %s", strings.Join(append(trail, p), " → "))
		}
		if state[p] != 0 {
			return
		}
		state[p] = visiting
		for _, to := range edges[p] {
			visit(to, append(trail, p))
		}
		state[p] = done
	}
	for p := range edges {
		visit(p, nil)
	}
}

func TestPackagesAreNamed(t *testing.T) {
	standard := strings.Fields("bufio bytes cmp context crypto debug embed errors exec expvar flag fmt fs hash http io json log maps math mime net netip os rand reflect regexp runtime signal slices slog sort strconv strings sync syscall template testing textproto time tls trace unicode unsafe url user x509")
	empty := strings.Fields("util utils common helper helpers manager misc base shared internal lib types")
	comments := map[string]bool{}
	for _, s := range sources(t) {
		name := s.file.Name.Name
		if slices.Contains(standard, name) || slices.Contains(empty, name) {
			t.Errorf("%s: package %s shadows the standard library or says nothing", s.name, name)
		}
		if !s.test() {
			comments[s.pkg()] = comments[s.pkg()] || s.file.Doc != nil
		}
	}
	for pkg, commented := range comments {
		if !commented {
			t.Errorf("package %s has no comment", pkg)
		}
	}
	if m, _ := filepath.Glob("../runtime/*.go"); len(m) > 0 {
		t.Errorf("runtime/ holds Go files %q: a package runtime would shadow the standard one", m)
	}
}
