package agent

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Ignore decides which files of a project are left out of a deployment. It is safe for concurrent use.
// The zero value leaves out only what is always left out.
type Ignore struct {
	rules []ignoreRule
}

type ignoreRule struct {
	match   *regexp.Regexp
	keep    bool // the pattern began with !
	dirOnly bool
}

// NewIgnore compiles patterns in gitignore's language (git-scm.com/docs/gitignore): blank lines and #
// comments, ! to keep, a trailing / for folders only, an inner / to anchor, *, ?, [a-z] and **. The
// last pattern that matches decides. They become regular expressions of package regexp, whose matching
// is linear in time, since a stranger's project brings its own patterns.
func NewIgnore(patterns []string) (*Ignore, error) {
	ig := &Ignore{}
	for _, p := range patterns {
		p = strings.TrimRight(p, " \t\r")
		if p == "" || p[0] == '#' {
			continue
		}
		rule, err := compileRule(p)
		if err != nil {
			return nil, fmt.Errorf("ignore pattern %q: %w", p, err)
		}
		ig.rules = append(ig.rules, rule)
	}
	return ig, nil
}

func compileRule(p string) (r ignoreRule, err error) {
	if p[0] == '!' {
		r.keep, p = true, p[1:]
	}
	if strings.HasSuffix(p, "/") {
		r.dirOnly, p = true, strings.TrimRight(p, "/")
	}
	anchored := strings.Contains(p, "/")
	p = strings.TrimPrefix(p, "/")
	if p == "" {
		return r, fmt.Errorf("matches nothing")
	}
	expr := translate(p)
	if !anchored {
		expr = "(?:.*/)?" + expr
	}
	r.match, err = regexp.Compile("(?s)^" + expr + "$")
	if err != nil {
		return r, fmt.Errorf("malformed")
	}
	return r, nil
}

// translate turns the body of a pattern into an expression over a slash-separated path.
func translate(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		rest := p[i:]
		switch {
		case strings.HasPrefix(rest, "**/") && (i == 0 || p[i-1] == '/'):
			b.WriteString("(?:.*/)?")
			i += 2
		case rest == "**" && (i == 0 || p[i-1] == '/'):
			b.WriteString(".+")
			i++
		case p[i] == '*':
			b.WriteString("[^/]*")
		case p[i] == '?':
			b.WriteString("[^/]")
		case p[i] == '[' && strings.IndexByte(rest[1:], ']') > 0:
			class, n := translateClass(rest)
			b.WriteString(class)
			i += n - 1
		case p[i] == '\\' && i+1 < len(p):
			i++
			b.WriteString(regexp.QuoteMeta(p[i : i+1]))
		default:
			b.WriteString(quoteByte(p[i]))
		}
	}
	return b.String()
}

// quoteByte keeps bytes of a longer UTF-8 sequence as they are.
func quoteByte(c byte) string {
	if c >= 0x80 {
		return string([]byte{c})
	}
	return regexp.QuoteMeta(string(rune(c)))
}

// translateClass returns the expression of the character class at the start of s and its length in s.
func translateClass(s string) (expr string, n int) {
	end := strings.IndexByte(s[1:], ']') + 1
	body, negate := s[1:end], ""
	if body[0] == '!' || body[0] == '^' {
		body, negate = body[1:], "^/"
	}
	body = strings.NewReplacer(`\`, `\\`, `[`, `\[`, `&`, `\&`, `^`, `\^`, `~`, `\~`).Replace(body)
	return "[" + negate + body + "]", end + 1
}

// Skip reports whether the file or folder at name, a slash-separated path relative to the project, is
// left out. A folder that is left out is not entered.
func (ig *Ignore) Skip(name string, dir bool) bool {
	if alwaysSkipped(path.Base(name), dir) {
		return true
	}
	skip := false
	for _, r := range ig.rules {
		if (dir || !r.dirOnly) && r.match.MatchString(name) {
			skip = !r.keep
		}
	}
	return skip
}

// alwaysSkipped names what no pattern brings back: whatever holds keys by convention (.env, .env.local,
// .envrc), the history, which may hold keys of its past, and caches. Installed dependencies
// (node_modules, .venv) stay: nothing installs them again here.
func alwaysSkipped(base string, dir bool) bool {
	if strings.HasPrefix(base, ".env") {
		return true
	}
	if !dir {
		return false
	}
	switch base {
	case ".git", ".hg", ".svn", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache":
		return true
	}
	return strings.HasSuffix(base, ".egg-info")
}
