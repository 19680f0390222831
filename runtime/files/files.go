// Package files renders the files from which tools read credentials (.netrc, ~/.aws/credentials, .npmrc), with a run's
// placeholders where the keys would stand. A file is a template; the formats of well-known tools are templates that the
// package brings along.
//
// ${NAME} in a template is the placeholder of the secret NAME, ${NAME.part} a part of it, and $${ is ${ itself; any
// other $ stands for itself. The parts of a URL are host, port, user, password and path; of any other secret there is
// only host, the first name that it is bound to. expires and expires_ms are when a value ends, in seconds and milliseconds
// since 1970, 0 when nobody said.
package files

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/superserve/superserve/secretd/api"
)

// maxRendered is the largest file that is rendered, in bytes.
const maxRendered = 256 << 10

// The errors of templates. Their text names secrets, never what stands for them.
var (
	ErrSyntax = errors.New("after ${ stands the name of a secret, perhaps .part, and }; $${ is ${ itself")
	ErrPart   = errors.New("unknown part")
	ErrSecret = errors.New("no such secret")
)

// parts are the words that may stand behind a name.
var parts = []string{"host", "port", "user", "password", "path", "pgpass", "expires", "expires_ms"}

// Template is a file's text, parsed. It is immutable and safe for concurrent use.
type Template struct{ pieces []piece }

// piece is literal text, then a secret or a part of one; the last has only text.
type piece struct{ text, name, part string }

// Parse reads a template. Errors: ErrSyntax, ErrPart.
func Parse(text string) (Template, error) {
	var t Template
	var literal strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		literal.WriteString(before)
		if !found {
			t.pieces = append(t.pieces, piece{text: literal.String()})
			return t, nil
		}
		if whole, escaped := strings.CutSuffix(literal.String(), "$"); escaped {
			literal.Reset()
			literal.WriteString(whole + "${")
			text = rest
			continue
		}
		word, after, closed := strings.Cut(rest, "}")
		name, part, has := strings.Cut(word, ".")
		switch {
		case !closed || api.CheckName(name) != nil:
			return Template{}, ErrSyntax
		case has && !slices.Contains(parts, part):
			return Template{}, fmt.Errorf("%w: a secret has %s", ErrPart, strings.Join(parts, ", "))
		}
		t.pieces = append(t.pieces, piece{literal.String(), name, part})
		literal.Reset()
		text = after
	}
}

// Names returns the secrets of which the template speaks, each once.
func (t Template) Names() []string {
	var names []string
	for _, p := range t.pieces {
		if p.name != "" && !slices.Contains(names, p.name) {
			names = append(names, p.name)
		}
	}
	return names
}

// Render fills the template with the placeholders of a run. A secret whose real value the agent holds is refused: a
// file may outlive the run. Errors: ErrSecret, ErrPart.
func (t Template) Render(entries []api.Entry) ([]byte, error) {
	var out []byte
	for _, p := range t.pieces {
		out = append(out, p.text...)
		if p.name == "" {
			continue
		}
		i := slices.IndexFunc(entries, func(e api.Entry) bool { return e.Name == p.name && !e.Exposed })
		if i < 0 {
			return nil, fmt.Errorf("%w: %s", ErrSecret, p.name)
		}
		word, err := partOf(entries[i], p.part)
		if err != nil {
			return nil, fmt.Errorf("%w: %s of %s", err, p.part, p.name)
		}
		if out = append(out, word...); len(out) > maxRendered {
			return nil, fmt.Errorf("larger than %d KiB", maxRendered>>10)
		}
	}
	return out, nil
}

// partOf is one part of an entry's placeholder, the whole for "".
func partOf(e api.Entry, part string) (string, error) {
	if part == "" {
		return e.Placeholder, nil
	}
	switch {
	case strings.HasPrefix(part, "expires") && e.Expires.IsZero():
		return "0", nil
	case part == "expires":
		return strconv.FormatInt(e.Expires.Unix(), 10), nil
	case part == "expires_ms":
		return strconv.FormatInt(e.Expires.UnixMilli(), 10), nil
	}
	u, err := url.Parse(e.Placeholder)
	if err != nil || u.Host == "" {
		if part == "host" && len(e.Binding.Hosts) > 0 && !e.Binding.Hosts[0].Wild {
			return e.Binding.Hosts[0].String(), nil
		}
		return "", ErrPart
	}
	password, _ := u.User.Password()
	switch part {
	case "host":
		return u.Hostname(), nil
	case "port":
		return portOf(u), nil
	case "user":
		return u.User.Username(), nil
	case "password":
		return password, nil
	case "path":
		return strings.TrimPrefix(u.Path, "/"), nil
	}
	// "The Password File", PostgreSQL: hostname:port:database:username:password, where \ escapes : and itself.
	escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`)
	return strings.Join([]string{escape.Replace(u.Hostname()), portOf(u), "*", escape.Replace(u.User.Username()), escape.Replace(password)}, ":"), nil
}

// ports are the well-known ones of URLs that have none.
var ports = map[string]string{
	"postgres": "5432", "postgresql": "5432", "mysql": "3306", "mariadb": "3306", "redis": "6379", "rediss": "6379", "http": "80", "https": "443",
}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return ports[u.Scheme]
}
