package agent

import (
	"path"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/superserve/superserve/runtime/files"
)

// maxCredentialFiles is the largest number of files of one agent.
const maxCredentialFiles = 32

// The folders in which files may stand.
const (
	homeDir      = "/home/agent"
	workspaceDir = "/workspace"
)

// File is an entry of `files`: a file with placeholders that the agent finds at its start.
type File struct {
	Path string // absolute, clean, below the agent's home or /workspace
	Text string // a template of runtime/files
}

// readFiles reads a mapping of paths to templates or formats. What they say of secrets is checked when those are known.
func (m *Manifest) readFiles(n ast.Node) error {
	pairs, err := asMapping(n, "'files'")
	if err != nil {
		return err
	}
	if len(pairs.Values) > maxCredentialFiles {
		return faultf(n, "more than %d files", maxCredentialFiles)
	}
	m.unread = pairs
	return nil
}

// finishFiles reads what readFiles has left, wherever it stood: by now the secrets are read.
func (m *Manifest) finishFiles() error {
	if m.unread == nil {
		return nil
	}
	pairs := m.unread
	m.unread = nil
	for _, pair := range pairs.Values {
		word, err := keyOf(pair)
		if err != nil {
			return err
		}
		if strings.HasPrefix(word, "x-") {
			continue
		}
		f := File{Path: filePath(word)}
		if f.Path == "" {
			return faultf(pair.Key, "a file's path is ~/NAME or /workspace/NAME, without . and ..")
		}
		if i := slices.IndexFunc(m.Files, func(other File) bool { return overlaps(f.Path, other.Path) }); i >= 0 {
			return faultf(pair.Key, "'%s' and '%s' cannot both be files", m.Files[i].Path, f.Path)
		}
		if err := m.readFile(&f, pair.Value); err != nil {
			return err
		}
		m.Files = append(m.Files, f)
	}
	return nil
}

// filePath is the clean absolute path of a word, "" for one that is not allowed.
func filePath(word string) string {
	p := word
	if rest, home := strings.CutPrefix(p, "~/"); home {
		p = homeDir + "/" + rest
	}
	below := strings.HasPrefix(p, homeDir+"/") || strings.HasPrefix(p, workspaceDir+"/")
	control := strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f })
	if !below || control || path.Clean(p) != p || len(p) > 1024 {
		return ""
	}
	return p
}

// overlaps reports whether one of two paths is the other, or in it.
func overlaps(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// readFile reads a template, or {format, secret, host, user}.
func (m *Manifest) readFile(f *File, n ast.Node) error {
	_, plain := n.(*ast.StringNode)
	_, block := n.(*ast.LiteralNode)
	var err error
	if plain || block {
		f.Text, err = asText(n, "a file")
	} else {
		f.Text, err = m.readFormat(n)
	}
	if err != nil {
		return err
	}
	t, err := files.Parse(f.Text)
	if err != nil {
		return faultf(n, "%v", err)
	}
	for _, name := range t.Names() {
		i := slices.IndexFunc(m.Secrets, func(s Secret) bool { return s.Name == name })
		if i < 0 {
			return faultf(n, "the file speaks of %s, which is none of 'secrets'", name)
		}
		if m.Secrets[i].Expose {
			return faultf(n, "%s has 'expose' and cannot stand in a file: files hold placeholders only", name)
		}
	}
	return nil
}

func (m *Manifest) readFormat(n ast.Node) (string, error) {
	fields, err := asMapping(n, "a file that is not a text")
	if err != nil {
		return "", err
	}
	var o files.Options
	format := ""
	err = readFields(fields, "a file", []field{
		{"format", text(&format, "format")},
		{"secret", readSecretName(&o.Secret)},
		{"host", text(&o.Host, "host")},
		{"user", text(&o.User, "user")},
	})
	if err != nil {
		return "", err
	}
	if format == "" {
		return "", faultf(n, "a file without 'format'")
	}
	var secrets []string
	for _, s := range m.Secrets {
		secrets = append(secrets, s.Name)
	}
	template, err := files.Text(format, o, secrets)
	if err != nil {
		return "", faultf(n, "%v", err)
	}
	return template, nil
}
