package agent

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxDepth bounds the nesting of a superserve.yaml, whose own schema needs 4 levels. The parser
// recurses once a level; it is the one thing that a short file could make it do without end.
const maxDepth = 64

// parseTree reads one YAML document whose top is a mapping. The tree keeps every key's place, which is
// why it is walked here and not decoded into a struct: a decoder's errors name a field, not a line.
func parseTree(text []byte) (*ast.MappingNode, error) {
	if err := checkDepth(text); err != nil {
		return nil, err
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, syntaxError(err)
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if body != nil {
			return nil, faultf(doc.Body, "a second document: one file describes one agent")
		}
		body = doc.Body
	}
	return asMapping(body, ManifestName)
}

// checkDepth counts brackets that open and never close on the way, and the deepest indentation, which
// bound the parser's recursion from above without knowing YAML (brackets inside strings count too).
func checkDepth(text []byte) error {
	depth := 0
	for i, line := range strings.Split(string(text), "\n") {
		depth += strings.Count(line, "[") + strings.Count(line, "{") - strings.Count(line, "]") - strings.Count(line, "}")
		depth = max(depth, 0)
		dashes := strings.Count(line, "- ") + strings.Count(line, "? ") + strings.Count(line, ": ")
		indent := len(line) - len(strings.TrimLeft(line, " "))
		if max(depth, strings.Count(line, "["), strings.Count(line, "{"), dashes) > maxDepth || indent > 4*maxDepth {
			return &Error{File: ManifestName, Line: i + 1, Column: 1, Text: "nested too deeply"}
		}
	}
	return nil
}

// syntaxError keeps the parser's message and place, and leaves out its excerpt of the source.
func syntaxError(err error) error {
	var placed interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if !errors.As(err, &placed) {
		return &Error{File: ManifestName, Line: 1, Column: 1, Text: "not YAML"}
	}
	line, column := place(placed.GetToken())
	return &Error{File: ManifestName, Line: line, Column: column, Text: placed.GetMessage()}
}

func place(t *token.Token) (line, column int) {
	if t == nil || t.Position == nil {
		return 1, 1
	}
	return max(1, t.Position.Line), max(1, t.Position.Column)
}

// faultf is an *Error at the place of a node; a nil node is the file's start.
func faultf(n ast.Node, format string, args ...any) error {
	e := &Error{File: ManifestName, Line: 1, Column: 1, Text: fmt.Sprintf(format, args...)}
	if n != nil {
		e.Line, e.Column = place(start(n))
	}
	return e
}

// start is the first token of a node: a mapping's own token is the colon after its first key.
func start(n ast.Node) *token.Token {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return n.Values[0].Key.GetToken()
		}
	case *ast.MappingValueNode:
		return n.Key.GetToken()
	}
	return n.GetToken()
}

// isNull reports whether a key has no value, written or left out.
func isNull(n ast.Node) bool {
	if n == nil {
		return true
	}
	_, null := n.(*ast.NullNode)
	return null
}

// asMapping returns n as a mapping; what names it in the error.
func asMapping(n ast.Node, what string) (*ast.MappingNode, error) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n, nil
	case *ast.MappingValueNode: // the parser's form of a mapping with a single key
		return &ast.MappingNode{Values: []*ast.MappingValueNode{n}}, nil
	}
	return nil, faultf(n, "%s must be a mapping", what)
}

// asList returns the items of a sequence.
func asList(n ast.Node, what string) ([]ast.Node, error) {
	if s, ok := n.(*ast.SequenceNode); ok {
		return s.Values, nil
	}
	return nil, faultf(n, "%s must be a list", what)
}

// asText returns a string, quoted, plain or block; no other type is made into one in silence.
func asText(n ast.Node, what string) (string, error) {
	text, ok := "", false
	switch n := n.(type) {
	case *ast.StringNode:
		text, ok = n.Value, true
	case *ast.LiteralNode:
		text, ok = n.Value.Value, true
	}
	if !ok {
		return "", faultf(n, "%s must be a string", what)
	}
	if strings.ContainsRune(text, 0) {
		return "", faultf(n, "%s holds a NUL", what)
	}
	return text, nil
}

// asScalar returns a string, or a number or truth value in the words that the file has for it.
func asScalar(n ast.Node, what string) (string, error) {
	switch n := n.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, nil
	}
	return asText(n, what)
}

func asBool(n ast.Node, what string) (bool, error) {
	if b, ok := n.(*ast.BoolNode); ok {
		return b.Value, nil
	}
	return false, faultf(n, "%s must be true or false", what)
}

// asTexts returns a list of strings.
func asTexts(n ast.Node, what string) ([]string, error) {
	items, err := asList(n, what)
	if err != nil {
		return nil, err
	}
	texts := make([]string, 0, len(items))
	for _, item := range items {
		text, err := asText(item, "an entry of "+what)
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, nil
}

// field is one key that a mapping may have and what reads its value.
type field struct {
	key  string
	read func(ast.Node) error
}

// readFields reads a mapping by a table. A key that the table lacks is an error that names the nearest
// one, unless it begins with x-; so is a key that stands twice. A null value is as good as no key.
func readFields(m *ast.MappingNode, what string, fields []field) error {
	seen := map[string]bool{}
	for _, pair := range m.Values {
		key, err := keyOf(pair)
		if err != nil {
			return err
		}
		if seen[key] {
			return faultf(pair.Key, "'%s' stands twice", key)
		}
		seen[key] = true
		if strings.HasPrefix(key, "x-") {
			continue
		}
		if err := readField(pair, key, what, fields); err != nil {
			return err
		}
	}
	return nil
}

func readField(pair *ast.MappingValueNode, key, what string, fields []field) error {
	keys := make([]string, 0, len(fields))
	for _, f := range fields {
		if f.key != key {
			keys = append(keys, f.key)
			continue
		}
		if isNull(pair.Value) && key != "allow" {
			return nil
		}
		return f.read(pair.Value)
	}
	if near := Nearest(key, keys); near != "" {
		return faultf(pair.Key, "unknown key '%s' in %s: did you mean '%s'?", key, what, near)
	}
	return faultf(pair.Key, "unknown key '%s' in %s: it has %s", key, what, strings.Join(keys, ", "))
}

func keyOf(pair *ast.MappingValueNode) (string, error) {
	if s, ok := pair.Key.(*ast.StringNode); ok {
		return s.Value, nil
	}
	return "", faultf(pair.Key, "a key must be a plain word")
}
