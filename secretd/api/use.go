package api

import (
	"errors"
	"fmt"
	"strings"
)

// UseKind names a kind of place that carries a secret.
type UseKind string

// The kinds of Use.
const (
	// UseBearer is Authorization: Bearer; Arg is another scheme
	// word in place of Bearer, as in "bearer:token" for GitHub.
	UseBearer UseKind = "bearer"
	// UseHeader is a header field of its own; Arg is its name in lower case.
	UseHeader UseKind = "header"
	// UseBasic is Authorization: Basic; Arg is "user", "password" or "" for either.
	UseBasic UseKind = "basic"
	// UseQuery is a parameter of the URL's query; Arg is its name.
	UseQuery UseKind = "query"
	// UseForm is a field of a form body; Arg is its name.
	UseForm UseKind = "form"
	// UseJSON is a member of a JSON body; Arg is its name.
	UseJSON UseKind = "json"
	// UsePath is a segment of the URL's path.
	UsePath UseKind = "path"
	// UseCookie is a cookie; Arg is its name.
	UseCookie UseKind = "cookie"
	// UseSigV4 is an AWS Signature Version 4.
	UseSigV4 UseKind = "sigv4"
	// UseJWT is a token signed with the secret.
	UseJWT UseKind = "jwt"
	// UseGCP is a Google service account's assertion.
	UseGCP UseKind = "gcp"
	// UseOAuth is a client secret or a refresh token in a request for tokens (RFC 6749),
	// whose answer is searched for tokens. Arg is a pattern of the hosts that those may
	// go to, "" for the binding's own.
	UseOAuth UseKind = "oauth"
	// UsePostgres is a password of the Postgres protocol.
	UsePostgres UseKind = "postgres"
	// UseMySQL is a password of the MySQL protocol.
	UseMySQL UseKind = "mysql"
	// UseRedis is a password of the Redis protocol.
	UseRedis UseKind = "redis"
)

// Use is one place that may carry a secret. Its text form is KIND or KIND:ARG.
// Uses are comparable.
type Use struct {
	Kind UseKind
	Arg  string
}

// argRule says what a kind does with its argument: nil takes none.
type argRule func(arg string) (string, error)

// argRules is written out, not registered: every kind there is stands here.
func argRules(k UseKind) (argRule, bool) {
	switch k {
	case UseBearer:
		return schemeArg, true
	case UseHeader:
		return headerArg, true
	case UseBasic:
		return basicArg, true
	case UseQuery, UseForm, UseJSON, UseCookie:
		return fieldArg, true
	case UseOAuth:
		return hostArg, true
	case UsePath, UseSigV4, UseJWT, UseGCP, UsePostgres, UseMySQL, UseRedis:
		return nil, true
	}
	return nil, false
}

// ParseUse reads the text form of a Use. Header names come back in lower case;
// fields that frame a message or route it (Host, Content-Length, Connection …)
// are refused. The error wraps ErrInvalid.
func ParseUse(s string) (Use, error) {
	u, err := parseUse(s)
	if err != nil {
		return Use{}, fmt.Errorf("use %s: %w: %w", quote(s), ErrInvalid, err)
	}
	return u, nil
}

func parseUse(s string) (Use, error) {
	kind, arg, colon := strings.Cut(s, ":")
	rule, known := argRules(UseKind(kind))
	if !known {
		return Use{}, errors.New("give bearer, header:NAME, basic, query:NAME, form:FIELD, json:FIELD, path, cookie:NAME, sigv4, jwt, gcp, oauth[:HOST], postgres, mysql or redis")
	}
	if colon && arg == "" {
		return Use{}, errors.New("nothing after the colon")
	}
	if rule == nil {
		if colon {
			return Use{}, fmt.Errorf("%s takes no argument", kind)
		}
		return Use{Kind: UseKind(kind)}, nil
	}
	arg, err := rule(arg)
	return Use{Kind: UseKind(kind), Arg: arg}, err
}

func schemeArg(arg string) (string, error) {
	if arg != "" && !isToken(arg) {
		return "", errors.New("the scheme is not a token")
	}
	arg = lower(arg)
	if arg == "bearer" {
		return "", nil
	}
	if arg == "basic" {
		return "", errors.New("basic is a use of its own")
	}
	return arg, nil
}

func headerArg(arg string) (string, error) {
	if !isToken(arg) {
		return "", errors.New("give the name of a header field, as in header:x-api-key")
	}
	arg = lower(arg)
	switch arg {
	case "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection",
		"te", "trailer", "upgrade", "expect", "content-encoding", "content-type":
		return "", errors.New("this field frames or routes the message and cannot carry a secret")
	}
	return arg, nil
}

func basicArg(arg string) (string, error) {
	if arg != "" && arg != "user" && arg != "password" {
		return "", errors.New("give basic, basic:user or basic:password")
	}
	return arg, nil
}

// fieldArg takes the name of a parameter, a form or JSON field, or a cookie.
func fieldArg(arg string) (string, error) {
	if arg == "" {
		return "", errors.New("give the field's name after a colon")
	}
	for i := range len(arg) {
		if c := arg[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("&=;\"\\", c) >= 0 {
			return "", errors.New("the field's name has a byte that no field's name has")
		}
	}
	return arg, checkLength(arg)
}

// hostArg takes a pattern of hosts in its canonical form, or nothing.
func hostArg(arg string) (string, error) {
	if arg == "" {
		return "", nil
	}
	p, err := ParsePattern(arg)
	if err != nil {
		return "", errors.New("give a host, as in oauth:api.example.com")
	}
	return p.String(), checkLength(p.String())
}

func checkLength(arg string) error {
	if len(arg) > MaxName {
		return fmt.Errorf("longer than %d bytes", MaxName)
	}
	return nil
}

// isToken reports whether s is a token of RFC 9110 §5.6.2 of a sane length.
func isToken(s string) bool {
	if s == "" || len(s) > MaxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !isLabelByte(c) && strings.IndexByte("!#$%&'*+.^`|~", c) < 0 {
			return false
		}
	}
	return true
}

// String returns the text form, which ParseUse reads back.
func (u Use) String() string {
	if u.Arg == "" {
		return string(u.Kind)
	}
	return string(u.Kind) + ":" + u.Arg
}

// MarshalText returns the text form; the zero Use is empty text.
func (u Use) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads the text form; empty text is the zero Use.
func (u *Use) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*u = Use{}
		return nil
	}
	parsed, err := ParseUse(string(text))
	if err != nil {
		return err
	}
	*u = parsed
	return nil
}
