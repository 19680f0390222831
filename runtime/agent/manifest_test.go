package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
)

const full = `# an agent
name: my-agent
command: python main.py
secrets:
  - ANTHROPIC_API_KEY
  - name: API_TOKEN
    hosts: [api.example.com, "*.example.org:8443"]
    use: header:x-api-key
  - {name: RAW, expose: true}
ignore: ["*.log", data/]
network:
  allow: [pypi.org]
  deny: []
env: {DEBUG: 1, MODE: fast, ON: true}
mounts: ["/srv/data:/data:ro"]
resources: {memory: 512M, cpus: 1.5, pids: 100, timeout: 10m}
files:
  ~/.netrc: "machine h login u password ${API_TOKEN}"
  /workspace/.npmrc: {format: npmrc, secret: API_TOKEN}
limits:
  ANTHROPIC_API_KEY: {requests_per_minute: 60, tokens_per_run: 500k, tokens_per_day: 2M, usd_per_run: 0.5, usd_per_day: 20}
prices: {claude-next: {input: 1, output: 2.5}}
x-owner: {team: [a, b]}
`

func TestParseReadsEveryKey(t *testing.T) {
	host := func(s string) api.Pattern {
		p, err := api.ParsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	want := &Manifest{
		Name:    "my-agent",
		Command: Command{Line: "python main.py"},
		Secrets: []Secret{
			{Name: "ANTHROPIC_API_KEY", Limits: api.Limits{RequestsPerMinute: 60, TokensPerRun: 500_000, TokensPerDay: 2_000_000, MicrosPerRun: 500_000, MicrosPerDay: 20_000_000}},
			{Name: "API_TOKEN", Hosts: []api.Pattern{host("api.example.com"), host("*.example.org:8443")}, Uses: []api.Use{{Kind: api.UseHeader, Arg: "x-api-key"}}},
			{Name: "RAW", Expose: true},
		},
		Ignore:    []string{"*.log", "data/"},
		Network:   Network{Allow: []string{"pypi.org"}, Deny: []string{}},
		Env:       map[string]string{"DEBUG": "1", "MODE": "fast", "ON": "true"},
		Mounts:    []string{"/srv/data:/data:ro"},
		Resources: Resources{Memory: 512 << 20, CPUs: 1.5, Pids: 100, Timeout: 10 * time.Minute},
		Prices:    map[string]api.Price{"claude-next": {Input: 1, Output: 2.5}},
		Files: []File{
			{"/home/agent/.netrc", "machine h login u password ${API_TOKEN}"},
			{"/workspace/.npmrc", "registry=https://registry.npmjs.org/\n//registry.npmjs.org/:_authToken=${API_TOKEN}\n"},
		},
	}
	got, err := Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(api.Pattern{}), cmpopts.IgnoreUnexported(Manifest{})); d != "" {
		t.Errorf("Parse -want +got\n%s", d)
	}
}

func TestParseReadsRequestRules(t *testing.T) {
	got, err := Parse([]byte(`name: a
command: x
network:
  allow:
    - pypi.org
    - host: api.github.com
      methods: [GET]
      paths: [/repos/acme/**]
    - {host: look.example.com, inspect: true}
    - {host: plain.example.com}
  deny:
    - host: api.stripe.com
      methods: [DELETE]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Network{Allow: []string{"pypi.org", "plain.example.com"}, Deny: []string{}, Requests: []RequestRule{
		{Host: "api.github.com", Methods: []string{"GET"}, Paths: []string{"/repos/acme/**"}},
		{Host: "look.example.com"},
		{Deny: true, Host: "api.stripe.com", Methods: []string{"DELETE"}},
	}}
	if d := cmp.Diff(want, got.Network); d != "" {
		t.Errorf("Parse -want +got\n%s", d)
	}
}

func TestParseFaults(t *testing.T) {
	const head = "name: a\ncommand: true-agent\n"
	tests := []struct{ name, text, want string }{
		{"names the nearest key", head + "secret: [A]\n", "superserve.yaml:3:1: unknown key 'secret' in superserve.yaml: did you mean 'secrets'?"},
		{"names the nearest inner key", head + "network:\n  alow: [a.com]\n", "superserve.yaml:4:3: unknown key 'alow' in network: did you mean 'allow'?"},
		{"lists the keys when none is near", head + "network: {qqqqqq: 1}\n", "unknown key 'qqqqqq' in network: it has mode, allow"},
		{"wants a name", "command: x\n", "superserve.yaml:1:1: 'name' is required"},
		{"wants a command", "name: a\n", "superserve.yaml:1:1: 'command' is required"},
		{"refuses a bad name", "name: My_Agent\ncommand: x\n", `superserve.yaml:1:7: invalid agent name "My_Agent": use lowercase letters, numbers, and hyphens only (must start with a letter)`},
		{"refuses a number as a name", "name: 12\ncommand: x\n", "superserve.yaml:1:7: 'name' must be a string"},
		{"refuses a key that stands twice", "name: a\nname: b\ncommand: x\n", "superserve.yaml:2:1: "},
		{"refuses broken yaml with its place", "name: a\ncommand: [x\n", "superserve.yaml:2:"},
		{"refuses a tab", "name: a\n\tcommand: x\n", "superserve.yaml:"},
		{"refuses a list", "- a\n", "superserve.yaml:1:1: superserve.yaml must be a mapping"},
		{"refuses an empty file", "", "superserve.yaml:1:1: superserve.yaml must be a mapping"},
		{"refuses two documents", head + "---\nname: b\n", "a second document"},
		{"refuses an alias", "x-n: &n a\nname: *n\ncommand: x\n", "superserve.yaml:2:7: 'name' must be a string"},
		{"refuses an allow without a value", head + "network:\n  allow:\n", "superserve.yaml:4:"},
		{"refuses a rule without a host", head + "network:\n  allow:\n  - methods: [GET]\n", "a rule without 'host'"},
		{"refuses an unknown key of a rule", head + "network:\n  allow:\n  - {host: a.com, method: [GET]}\n", "did you mean 'methods'?"},
		{"refuses methods that are not looked at", head + "network:\n  allow:\n  - {host: a.com, inspect: false, methods: [GET]}\n", "leave out inspect: false"},
		{"refuses an empty list of paths", head + "network:\n  deny:\n  - {host: a.com, paths: []}\n", "leave it out for any"},
		{"refuses a number for a rule", head + "network:\n  allow: [12]\n", "an entry of 'allow' that is not {host: …} must be a string"},
		{"refuses a mode", head + "network: open\n", `superserve.yaml:3:10: network "open": give none, bound or public`},
		{"does not repeat a value put in place of a name", head + "secrets: [\"KEY=sk-1234\"]\n", "superserve.yaml:3:11: invalid secret name"},
		{"refuses a secret that stands twice", head + "secrets: [A, A]\n", "superserve.yaml:3:14: secret 'A' stands twice"},
		{"refuses a use without hosts", head + "secrets:\n- name: A\n  use: bearer\n", "superserve.yaml:4:3: secret 'A' has 'use' without 'hosts'"},
		{"refuses a host", head + "secrets: [{name: A, hosts: ['*']}]\n", "superserve.yaml:3:29: "},
		{"refuses a mount on the root", head + "mounts: ['/etc:/']\n", "superserve.yaml:3:10: mount"},
		{"refuses a size", head + "resources: {memory: lots}\n", `superserve.yaml:3:21: 'memory': size "lots"`},
		{"refuses an image beside a rootfs", head + "image: a\nrootfs: /b\n", "exclude each other"},
		{"refuses limits of an unknown secret", head + "limits: {NOPE: {usd_per_day: 1}}\n", `superserve.yaml:3:10: limits of "NOPE", which is none of 'secrets'`},
		{"names the nearest limit", head + "secrets: [A]\nlimits: {A: {usd_per_dya: 1}}\n", "superserve.yaml:4:14: unknown key 'usd_per_dya' in limits: did you mean 'usd_per_day'?"},
		{"refuses a limit of nothing", head + "secrets: [A]\nlimits: {A: {usd_per_day: 0}}\n", "superserve.yaml:4:27: 'usd_per_day': give US dollars"},
		{"refuses an empty limit", head + "secrets: [A]\nlimits: {A: {}}\n", "a limit without a number"},
		{"refuses a limit of an exposed secret", head + "secrets: [{name: A, expose: true}]\nlimits: {A: {usd_per_day: 1}}\n", "superserve.yaml:4:10: A has 'expose'"},
		{"refuses a price that is none", head + "prices: {m: {input: NaN, output: 1}}\n", "superserve.yaml:3:21: 'input': give US dollars"},
		{"refuses half a price", head + "prices: {m: {input: 1}}\n", "a price has 'input' and 'output'"},
		{"refuses a file elsewhere", head + "files:\n  /etc/passwd: x\n", "superserve.yaml:4:3: a file's path is ~/NAME or /workspace/NAME"},
		{"refuses a file above the home", head + "files: {~/../x: y}\n", "superserve.yaml:3:9: a file's path"},
		{"refuses a home as a file", head + "files: {~/: y}\n", "superserve.yaml:3:9: a file's path"},
		{"refuses files inside each other", head + "files:\n  ~/a: x\n  ~/a/b: x\n", "superserve.yaml:5:3: '/home/agent/a' and '/home/agent/a/b' cannot both"},
		{"refuses a file of an unknown secret", head + "files:\n  ~/a: ${NOPE}\n", "superserve.yaml:4:8: the file speaks of NOPE"},
		{"refuses a file of an exposed secret", head + "files: {~/a: \"${A}\"}\nsecrets: [{name: A, expose: true}]\n", "superserve.yaml:3:14: A has 'expose'"},
		{"refuses a template's syntax", head + "files: {~/a: \"${A\"}\n", "superserve.yaml:3:14: after ${"},
		{"refuses an unknown format", head + "files: {~/a: {format: awz}}\n", "superserve.yaml:3:14: unknown format: there are aws"},
		{"names the nearest key of a file", head + "files: {~/a: {formt: aws}}\n", "superserve.yaml:3:15: unknown key 'formt' in a file: did you mean 'format'?"},
		{"refuses a flood of brackets", strings.Repeat("[", 30000), "nested too deeply"},
		{"refuses a large file", strings.Repeat("#", maxManifest+1), "larger than 64 KiB"},
	}
	for _, tt := range tests {
		t.Run("it "+tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.text))
			var fault *Error
			if !errors.As(err, &fault) {
				t.Fatalf("Parse(%.80q) = %v, want an *Error", tt.text, err)
			}
			if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Parse(%.80q)\n got %s\nwant %s", tt.text, err, tt.want)
			}
			if strings.Contains(err.Error(), "sk-1234") {
				t.Errorf("the error holds the value: %s", err)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	t.Run("it says that there is none", func(t *testing.T) {
		if _, err := Load(t.TempDir()); !errors.Is(err, ErrNoManifest) {
			t.Errorf("got %v, want ErrNoManifest", err)
		}
	})
	t.Run("it does not follow a symlink out of the project", func(t *testing.T) {
		dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside.yaml")
		if err := os.WriteFile(outside, []byte(full), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(dir, ManifestName)); err != nil {
			t.Fatal(err)
		}
		if m, err := Load(dir); err == nil {
			t.Errorf("read %q through a symlink", m.Name)
		}
	})
	t.Run("it does not wait for a pipe", func(t *testing.T) {
		dir := t.TempDir()
		if err := unix.Mkfifo(filepath.Join(dir, ManifestName), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "is no regular file") {
			t.Errorf("got %v", err)
		}
	})
}

func TestCommandVector(t *testing.T) {
	tests := []struct {
		name    string
		command Command
		args    []string
		want    []string
	}{
		{"splits plain words", Command{Line: "python  main.py"}, nil, []string{"python", "main.py"}},
		{"adds arguments to plain words", Command{Line: "python main.py"}, []string{"a b"}, []string{"python", "main.py", "a b"}},
		{"gives a pipe to the shell", Command{Line: "a | b"}, nil, []string{"/bin/sh", "-c", "a | b"}},
		{"gives the shell its arguments", Command{Line: "a && b"}, []string{"$x"}, []string{"/bin/sh", "-c", `a && b "$@"`, "sh", "$x"}},
		{"gives an assignment to the shell", Command{Line: "A=1 b"}, nil, []string{"/bin/sh", "-c", "A=1 b"}},
		{"keeps a vector as it is", Command{Argv: []string{"a", "b c"}}, []string{"d"}, []string{"a", "b c", "d"}},
	}
	for _, tt := range tests {
		t.Run("it "+tt.name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, tt.command.Vector(tt.args)); d != "" {
				t.Errorf("-want +got\n%s", d)
			}
		})
	}
}

func TestUnits(t *testing.T) {
	for in, want := range map[string]int64{"16777216": 16 << 20, "16777215": 0, "512M": 512 << 20, "1.5g": 3 << 29, "2GiB": 2 << 30, "64MB": 64 << 20, "": 0, "1": 0, "-5M": 0, "0x1p30": 0, "nan": 0, "inf": 0, "M": 0, "1e9G": 0} {
		if got, err := ParseSize(in); got != want || (err == nil) != (want > 0) {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for in, want := range map[string]time.Duration{"90": 90 * time.Second, "2h": 2 * time.Hour, "0": 0, "-1s": 0, "x": 0} {
		if got, err := ParseTimeout(in); got != want || (err == nil) != (want > 0) {
			t.Errorf("ParseTimeout(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"name", "command", "secrets", "ignore", "network"}
	for in, want := range map[string]string{"secret": "secrets", "comand": "command", "nmae": "name", "zebra": "", "": "", strings.Repeat("n", 100): ""} {
		if in == "nmae" {
			want = "" // a swap is two edits, too many for four letters
		}
		if got := Nearest(in, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{full, "", "a: [", "name: &a\n  <<: *a\n", "? {a: b}\n: c", "name: !!binary aGk=\n", "\xff\xfe", "- - - -", "a: |\n  x\n b"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := Parse(text)
		var fault *Error
		switch {
		case err == nil && (m.Name == "" || len(m.Command.Vector(nil)) == 0):
			t.Errorf("accepted %q without a name or a command", text)
		case err != nil && (!errors.As(err, &fault) || fault.Line < 1 || fault.Column < 1):
			t.Errorf("%q: error %v has no place", text, err)
		}
	})
}
