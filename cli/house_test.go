package cli

import (
	"go/ast"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestFilesStaySmall holds the sizes of CONTRIBUTING.md.
func TestFilesStaySmall(t *testing.T) {
	const maxFile, maxFunc = 500, 80
	for _, s := range sources(t) {
		if s.test() || !s.wrote() {
			continue
		}
		if n := s.text.LineCount(); n > maxFile {
			t.Errorf("%s has %d lines, at most %d", s.name, n, maxFile)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := s.text.Line(f.End()) - s.text.Line(f.Pos()) + 1; n > maxFunc {
				t.Errorf("%s: %s has %d lines, at most %d", s.line(f.Pos()), f.Name.Name, n, maxFunc)
			}
			if f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: init() hides wiring", s.line(f.Pos()))
			}
		}
	}
}

// TestExportedNamesHaveComments wants a sentence on each name that another package can use, and that
// it starts with the name.
func TestExportedNamesHaveComments(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() || !s.wrote() {
			continue
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) {
					wantComment(t, s, d.Name, d.Doc)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					checkSpec(t, s, d, spec)
				}
			}
		}
	}
}

func checkSpec(t *testing.T, s source, d *ast.GenDecl, spec ast.Spec) {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		doc := spec.Doc
		if doc == nil {
			doc = d.Doc
		}
		if spec.Name.IsExported() {
			wantComment(t, s, spec.Name, doc)
		}
	case *ast.ValueSpec:
		if spec.Names[0].IsExported() && spec.Doc == nil && spec.Comment == nil && d.Doc == nil {
			t.Errorf("%s: %s has no comment", s.line(spec.Pos()), spec.Names[0].Name)
		}
	}
}

func wantComment(t *testing.T, s source, name *ast.Ident, doc *ast.CommentGroup) {
	text := doc.Text()
	for _, article := range []string{"A ", "An ", "The "} {
		text = strings.TrimPrefix(text, article)
	}
	if !strings.HasPrefix(text, name.Name) {
		t.Errorf("%s: the comment of %s does not start with it", s.line(name.Pos()), name.Name)
	}
}

// exportedReceiver leaves out the methods that only an interface reaches.
func exportedReceiver(f *ast.FuncDecl) bool {
	switch f.Name.Name {
	case "Error", "Is", "Unwrap": // of an error: their meaning is the standard library's
		return false
	}
	if f.Recv == nil {
		return true
	}
	typ := f.Recv.List[0].Type
	for {
		switch t := typ.(type) {
		case *ast.StarExpr:
			typ = t.X
		case *ast.IndexExpr:
			typ = t.X
		case *ast.Ident:
			return t.IsExported()
		default:
			return false
		}
	}
}

// TestClaimsNameTests holds docs/THREAT_MODEL.md to its word: each test that it names is there, and
// each numbered claim names one.
func TestClaimsNameTests(t *testing.T) {
	text, err := os.ReadFile("../docs/THREAT_MODEL.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.test() {
				tests[f.Name.Name] = true
			}
		}
	}
	claims := regexp.MustCompile(`(?m)^\*\*(T\d+)[^*]*\*\*(?:.|\n)*?(?:\n\n|\z)`).FindAllStringSubmatch(string(text), -1)
	if len(claims) < 10 {
		t.Fatalf("found %d claims in THREAT_MODEL.md", len(claims))
	}
	seen := map[string]bool{}
	for _, claim := range claims {
		if seen[claim[1]] {
			t.Errorf("there are two claims %s", claim[1])
		}
		seen[claim[1]] = true
		named := regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w+`).FindAllString(claim[0], -1)
		if len(named) == 0 {
			t.Errorf("claim %s names no test", claim[1])
		}
		for _, name := range named {
			if !tests[name] {
				t.Errorf("claim %s names %s, which is not there", claim[1], name)
			}
		}
	}
}

// TestMakefileIsShort holds the Makefile to a screen, with a line of help for each target.
func TestMakefileIsShort(t *testing.T) {
	text, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n > 60 {
		t.Errorf("it has %d lines, at most 60", n)
	}
	target := regexp.MustCompile(`(?m)^[a-z0-9-]+:[^=].*$`)
	for _, line := range target.FindAllString(string(text), -1) {
		if !strings.Contains(line, " ## ") {
			t.Errorf("no help: %s", line)
		}
	}
}
