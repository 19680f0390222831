package files

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Options are what a format may be told. A format that has no use for one refuses it.
type Options struct {
	Secret string // the secret whose placeholder stands in the file; "" is the format's usual one
	Host   string // the name, perhaps with a port, that the credential is for
	User   string // the user's name that stands beside it
}

// format is one kind of file that tools read.
type format struct {
	secret string // the usual one; "" means that one has to be named
	host   bool   // takes Options.Host
	user   bool   // takes Options.User
	text   func(o Options, secrets []string) string
}

// formats are known by the names of their files or of the tools that read them.
var formats = map[string]format{
	// The .netrc file, GNU inetutils; curl, git, ftp and Python read it.
	"netrc": {host: true, user: true, text: func(o Options, _ []string) string {
		return fmt.Sprintf("machine %s\nlogin %s\npassword ${%s}\n", orHost(o), cmp.Or(o.User, "agent"), o.Secret)
	}},
	"pgpass": {secret: "DATABASE_URL", text: func(o Options, _ []string) string { return fmt.Sprintf("${%s.pgpass}\n", o.Secret) }},
	"npmrc": {secret: "NPM_TOKEN", host: true, text: func(o Options, _ []string) string {
		host := cmp.Or(o.Host, "registry.npmjs.org")
		return fmt.Sprintf("registry=https://%s/\n//%s/:_authToken=${%s}\n", host, host, o.Secret)
	}},
	// Shared credentials file, AWS SDKs and Tools Reference Guide. Its keys come in pairs, by fixed names.
	"aws": {secret: "AWS_ACCESS_KEY_ID", text: func(o Options, secrets []string) string {
		base := strings.TrimSuffix(o.Secret, "ACCESS_KEY_ID")
		text := fmt.Sprintf("[default]\naws_access_key_id = ${%s}\naws_secret_access_key = ${%sSECRET_ACCESS_KEY}\n", o.Secret, base)
		if token := base + "SESSION_TOKEN"; slices.Contains(secrets, token) {
			text += fmt.Sprintf("aws_session_token = ${%s}\n", token)
		}
		return text
	}},
	"gh": {secret: "GITHUB_TOKEN", host: true, user: true, text: func(o Options, _ []string) string {
		return fmt.Sprintf("%s:\n    user: %s\n    oauth_token: ${%s}\n    git_protocol: https\n", cmp.Or(o.Host, "github.com"), cmp.Or(o.User, "agent"), o.Secret)
	}},
	// A server's certificate is judged by the proxy; the client meets the run's own authority.
	"kubeconfig": {host: true, user: true, text: func(o Options, _ []string) string {
		return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: default, cluster: {server: "https://%s", certificate-authority: /etc/ssl/certs/ca-certificates.crt}}]
users: [{name: %q, user: {token: "${%s}"}}]
contexts: [{name: default, context: {cluster: default, user: %q}}]
current-context: default
`, orHost(o), cmp.Or(o.User, "agent"), o.Secret, cmp.Or(o.User, "agent"))
	}},
	// The whole document is the secret, and its placeholder is a document too.
	"claude-code": {secret: "CLAUDE_CODE_REFRESH_TOKEN", text: claudeCode},
	"codex":       {secret: "CODEX_LOGIN_REFRESH_TOKEN", user: true, text: codex},
	"gemini-cli":  {secret: "GEMINI_CLI_REFRESH_TOKEN", text: geminiCLI},
	"gcp":         {secret: "GCP_SERVICE_ACCOUNT_KEY", text: func(o Options, _ []string) string { return "${" + o.Secret + "}" }},
}

func orHost(o Options) string { return cmp.Or(o.Host, "${"+o.Secret+".host}") }

// Formats lists the names of formats.
func Formats() []string { return slices.Sorted(maps.Keys(formats)) }

// The errors of formats.
var (
	ErrFormat = errors.New("unknown format")
	ErrOption = errors.New("wrong option")
)

// Text is the template of a format, for a run that has the named secrets. Errors: ErrFormat, ErrOption.
func Text(name string, o Options, secrets []string) (string, error) {
	f, known := formats[name]
	if !known {
		return "", fmt.Errorf("%w: there are %s", ErrFormat, strings.Join(Formats(), ", "))
	}
	o.Secret = cmp.Or(o.Secret, f.secret)
	switch {
	case o.Secret == "":
		return "", fmt.Errorf("%w: %s wants 'secret'", ErrOption, name)
	case o.Host != "" && !f.host:
		return "", fmt.Errorf("%w: %s has no 'host'", ErrOption, name)
	case o.User != "" && !f.user:
		return "", fmt.Errorf("%w: %s has no 'user'", ErrOption, name)
	case name == "aws" && !strings.HasSuffix(o.Secret, "ACCESS_KEY_ID"):
		return "", fmt.Errorf("%w: the secret of aws is called …ACCESS_KEY_ID", ErrOption)
	case isLogin(name) && !strings.HasSuffix(o.Secret, refreshEnding):
		return "", fmt.Errorf("%w: the secret of %s is called …%s", ErrOption, name, refreshEnding)
	case strings.ContainsFunc(o.User+o.Host, func(r rune) bool { return r <= ' ' || strings.ContainsRune("\"'{}\\#$,", r) || r == 0x7f }):
		return "", fmt.Errorf("%w: 'host' and 'user' are plain words", ErrOption)
	}
	return f.text(o, secrets), nil
}
