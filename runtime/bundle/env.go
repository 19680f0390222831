package bundle

import (
	"os"
	"path"
	"slices"
	"strings"
)

// environment is what the agent starts with: what tools expect, where the certificates are, then Process.Env, which
// wins. Nothing else of the host's environment enters: it may hold keys.
func (b *Bundle) environment() []string {
	env := []string{
		"PATH=" + searchPath(b.proc.Path, os.Getenv("PATH")),
		"HOME=" + Home,
		"USER=agent",
		"LOGNAME=agent",
		"SHELL=" + b.shell(),
		"TERM=" + orElse(os.Getenv("TERM"), "xterm-256color"),
		"LANG=" + orElse(os.Getenv("LANG"), "C.UTF-8"),
		"PWD=" + b.cwd(),
		"IS_SANDBOX=1",
	}
	for _, k := range []string{
		"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "CARGO_HTTP_CAINFO",
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "npm_config_cafile", "PGSSLROOTCERT",
	} {
		env = append(env, k+"="+trustFile)
	}
	// These two add to a list that the program brings along; the short file saves parsing 140 roots at each start.
	env = append(env, "NODE_EXTRA_CA_CERTS="+runFile, "DENO_CERT="+runFile)
	return merge(env, b.proc.Env)
}

// merge appends over to env, without the entries of env that it replaces.
func merge(env, over []string) []string {
	set := make(map[string]bool, len(over))
	for _, kv := range over {
		k, _, _ := strings.Cut(kv, "=")
		set[k] = true
	}
	env = slices.DeleteFunc(env, func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		return set[k]
	})
	return append(env, over...)
}

// searchPath keeps those directories of the host's PATH that exist in the sandbox, after one in the agent's home and
// first, and before the usual ones.
func searchPath(first []string, host string) string {
	dirs := append([]string{Home + "/.local/bin"}, first...)
	for _, d := range strings.Split(host, ":") {
		if strings.HasPrefix(d, "/usr/") && path.Clean(d) == d {
			dirs = append(dirs, d)
		}
	}
	dirs = append(dirs, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
	var out []string
	for _, d := range dirs {
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return strings.Join(out, ":")
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func (b *Bundle) cwd() string { return path.Join(Workspace, path.Join("/", b.proc.Dir)) }
