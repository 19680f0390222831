package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestInstallation wants the folder of a program, and never one that holds keys beside it.
func TestInstallation(t *testing.T) {
	home := t.TempDir()
	at := func(name string) string { return filepath.Join(home, name) }
	for _, name := range []string{"opt/node/bin/node", "venv/bin/python", "tool/bin/run", "tool/lib/x"} {
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("venv/pyvenv.cfg"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := caller{home: home}
	for _, tt := range []struct{ name, want string }{
		{"/usr/bin/git", ""},
		{"/usr/local/bin/x", ""},
		{at(".nvm/versions/node/v22/bin/node"), at(".nvm/versions/node/v22")},
		{at(".local/share/claude/versions/2.1.197"), at(".local/share/claude")},
		{at(".local/bin/claude"), at(".local/bin/claude")},
		{at(".claude/local/claude"), at(".claude/local")},
		{at(".claude/credentials"), at(".claude/credentials")},
		{at(".cargo/bin/rg"), at(".cargo/bin/rg")},
		{at(".pyenv/shims/python3"), at(".pyenv")},
		{at("opt/node/lib/node_modules/codex/bin/codex.js"), at("opt/node")},
		{at(".local/lib/node_modules/codex/bin/codex.js"), at(".local/lib/node_modules")},
		{at("work/node_modules/.bin/tsc"), at("work/node_modules")},
		{at("venv/bin/python"), at("venv")},
		{at("tool/bin/run"), at("tool")},
		{at("bin/mine"), at("bin/mine")},
		{"/opt/thing", "/opt/thing"},
	} {
		if got := c.installation(tt.name); got != tt.want {
			t.Errorf("installation(%q): got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestCheckShare(t *testing.T) {
	p := places{state: "/var/lib/superserve", run: "/run/superserve"}
	c := caller{home: "/home/ann"}
	for _, tt := range []struct {
		dir string
		ok  bool
	}{
		{"/", false}, {"/etc", false}, {"/etc/nginx", false}, {"/usr/lib", false}, {"/home", false}, {"/home/ann", false}, {"/root", false},
		{"/var/lib", false}, {"/var/lib/superserve", false}, {"/var/lib/superserve/x", false}, {"/tmp", false}, {"/proc/1", false},
		{"/home/ann/.ssh", false}, {"/home/ann/.config/app", false}, {"/root/.aws", false},
		{"/home/ann/code", true}, {"/home/ann/code/.hidden", true}, {"/srv/app", true}, {"/tmp/x", true}, {"/opt/app", true}, {"/usr/src/linux", true},
	} {
		if err := c.checkShare(tt.dir, p); (err == nil) != tt.ok {
			t.Errorf("checkShare(%q): %v", tt.dir, err)
		}
	}
}

func TestParseBinding(t *testing.T) {
	for _, tt := range []struct{ text, host, use string }{
		{"api.example.com", "api.example.com", ""},
		{"api.example.com:8443", "api.example.com:8443", ""},
		{"*.example.com:header:x-api-key", "*.example.com", "header:x-api-key"},
		{"api.example.com:8443:basic:user", "api.example.com:8443", "basic:user"},
		{"", "", ""}, {":bearer", "", ""}, {"a b", "", ""}, {"api.example.com:nonsense", "", ""}, {"api.example.com:99999", "", ""},
	} {
		b, err := parseBinding(tt.text)
		host, use := "", ""
		if err == nil {
			host = texts(b.Hosts)
			if len(b.Uses) > 0 {
				use = b.Uses[0].String()
			}
		}
		if host != tt.host || use != tt.use {
			t.Errorf("parseBinding(%q): got %q %q (%v), want %q %q", tt.text, host, use, err, tt.host, tt.use)
		}
	}
}

// TestLinks follows each link by itself, so that a program may keep the name that it is called by.
func TestLinks(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("file"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"b": "file", "a": at("b"), "loop": "loop", "dead": "nothing"} {
		if err := os.Symlink(to, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := links(at("a"))
	if diff := cmp.Diff([]string{at("a"), at("b"), at("file")}, got); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	for _, name := range []string{"loop", "dead"} {
		if _, err := links(at(name)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
