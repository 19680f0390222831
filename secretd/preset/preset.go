// Package preset knows, from the name of an environment variable, which provider a
// key is for: the hosts that it may go to, the places that carry it and what it
// begins with. Everything here is a pure function of the table in table.go.
package preset

import (
	"bytes"
	"cmp"
	"net/url"
	"slices"
	"strings"

	"github.com/superserve/superserve/secretd/api"
)

// For returns the binding that the name of a variable implies. The slices are the
// caller's.
func For(name string) (api.Binding, bool) {
	p, ok := find(name)
	if !ok {
		return api.Binding{}, false
	}
	return p.binding(), true
}

// Prefix returns what keys of the variable's provider begin with, or "".
func Prefix(name string) string {
	p, _ := find(name)
	return p.prefix
}

// PrefixOf returns the longest known beginning of a provider's keys that value has,
// or "". Such beginnings are public and say nothing of the rest.
func PrefixOf(value []byte) string {
	for _, p := range Prefixes() {
		if len(value) > len(p) && string(value[:len(p)]) == p {
			return p
		}
	}
	return ""
}

// Prefixes returns every known beginning, the longest first.
func Prefixes() []string {
	all := prefixes()
	for _, p := range providers() {
		if p.prefix != "" {
			all = append(all, p.prefix)
		}
	}
	slices.SortFunc(all, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
	return slices.Compact(all)
}

// Names returns the variables that have a preset, sorted.
func Names() []string {
	var names []string
	for _, p := range providers() {
		names = append(names, strings.Fields(p.names)...)
	}
	slices.Sort(names)
	return names
}

func find(name string) (provider, bool) {
	for _, p := range providers() {
		if slices.Contains(strings.Fields(p.names), name) {
			return p, true
		}
	}
	return provider{}, false
}

func (p provider) binding() api.Binding {
	var b api.Binding
	for h := range strings.FieldsSeq(p.hosts) {
		b.Hosts = append(b.Hosts, must(api.ParsePattern(h)))
	}
	for u := range strings.FieldsSeq(p.uses) {
		b.Uses = append(b.Uses, must(api.ParseUse(u)))
	}
	return b
}

// must holds because a test parses the whole table.
func must[T any](v T, err error) T {
	if err != nil {
		panic("preset: " + err.Error())
	}
	return v
}

// ForValue returns the binding that a value implies when it is a URL of a known
// scheme: its own host and port, and the wire protocol of its scheme. For http and
// https the secret is a part of the path, as in webhooks. The slices are the
// caller's.
func ForValue(value []byte) (api.Binding, bool) {
	u, err := url.Parse(bare(value))
	if err != nil || u.Host == "" {
		return api.Binding{}, false
	}
	use, port := scheme(u.Scheme)
	if use == "" {
		return api.Binding{}, false
	}
	text := u.Host
	if u.Port() == "" {
		text += ":" + port
	}
	pattern, err := api.ParsePattern(text)
	if err != nil {
		return api.Binding{}, false
	}
	return api.Binding{Hosts: []api.Pattern{pattern}, Uses: []api.Use{{Kind: use}}, Plaintext: u.Scheme == "http"}, true
}

// bare returns scheme and host of a URL, so that no string is made of what may be
// secret in it; "" when value is no URL.
func bare(value []byte) string {
	scheme, rest, ok := bytes.Cut(value, []byte("://"))
	if !ok {
		return ""
	}
	if end := bytes.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	if at := bytes.LastIndexByte(rest, '@'); at >= 0 {
		rest = rest[at+1:]
	}
	const most = 300 // a scheme, a host and a port
	if len(scheme)+len(rest) > most {
		return ""
	}
	return string(scheme) + "://" + string(rest)
}

// scheme returns the use and the default port of a URL scheme.
func scheme(s string) (use api.UseKind, port string) {
	s, _, _ = strings.Cut(s, "+") // postgresql+asyncpg, mysql+pymysql
	switch s {
	case "postgres", "postgresql":
		return api.UsePostgres, "5432"
	case "mysql", "mariadb":
		return api.UseMySQL, "3306"
	case "redis", "rediss", "valkey", "valkeys":
		return api.UseRedis, "6379"
	case "http":
		return api.UsePath, "80"
	case "https":
		return api.UsePath, "443"
	}
	return "", ""
}
