package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/tpm"
)

func TestSource(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/secretd.service")
	for spec, want := range map[string]seal.Source{
		"file":             seal.File{Path: "/default"},
		"file:/etc/my.key": seal.File{Path: "/etc/my.key"},
		"credential":       seal.Credential{Dir: "/run/credentials/secretd.service", Name: "superserve.key"},
		"credential:x":     seal.Credential{Dir: "/run/credentials/secretd.service", Name: "x"},
		"tpm2":             tpm.Key{Device: "/dev/tpmrm0"},
		"tpm2?pcrs=7,14":   tpm.Key{Device: "/dev/tpmrm0", PCRs: []uint{7, 14}},
		"tpm2:/dev/tpmrm1": tpm.Key{Device: "/dev/tpmrm1"},
		"transit:https://bao.example:8200/a/transit/k?token=/t&ca=/c&namespace=n": seal.Transit{
			Address: "https://bao.example:8200", Mount: "a/transit", Name: "k", TokenFile: "/t", CAFile: "/c", Namespace: "n"},
	} {
		got, err := source(spec, "/default")
		if err != nil {
			t.Errorf("%s: %v", spec, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", spec, diff)
		}
	}
	for _, spec := range []string{"", "keyring", "passphrase:secret", "passphrase:fd=x", "tpm2?pcrs=x", "transit:", "transit:https://x/k", "transit:https://x"} {
		if got, err := source(spec, "/default"); err == nil {
			t.Errorf("%q: took %#v", spec, got)
		}
	}
	if _, err := known("transit"); err == nil {
		t.Error("a server's address is taken from the store")
	}
}

// phrased runs secretd with passphrases on descriptors 3 and up.
func phrased(t *testing.T, cmd *exec.Cmd, phrases ...string) *exec.Cmd {
	t.Helper()
	for _, p := range phrases {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString(p + "\n"); err != nil {
			t.Fatal(err)
		}
		w.Close()
		t.Cleanup(func() { r.Close() })
		cmd.ExtraFiles = append(cmd.ExtraFiles, r)
	}
	return cmd
}

// TestRekeyByPassphrase gives a store a passphrase, opens it by that, and not by another.
func TestRekeyByPassphrase(t *testing.T) {
	dir := stateDir(t)
	cmd := start(t, dir)
	c := client.New(socketIn(dir))
	if _, err := c.Set(t.Context(), "my-agent", []api.Setting{{Name: "MY_KEY", Value: []byte(realKey)}}); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	const phrase = "correct horse battery"
	out, err := phrased(t, command(t, "rekey", "--state", dir, "--to", "passphrase:fd=3"), phrase).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the key comes from: passphrase") {
		t.Fatalf("%s, %v", out, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "secretd", "key")); err == nil {
		t.Error("the key file is left")
	}
	serve := []string{"--state", dir, "--socket", socketIn(dir), "--key", "passphrase:fd=3"}
	opened := phrased(t, command(t, serve...), phrase)
	serving(t, opened)
	if list, err := c.List(t.Context(), "my-agent"); err != nil || len(list) != 1 {
		t.Fatalf("list: %v, %v", list, err)
	}
	_ = opened.Process.Kill()
	_ = opened.Wait()
	refuses(t, phrased(t, command(t, serve...), "incorrect horse battery"), exitKey, "not this store's")
	refuses(t, command(t, serve[:4]...), exitError, "no terminal")
}

// refuses wants secretd to end with a code and one line that has the text.
func refuses(t *testing.T, cmd *exec.Cmd, code int, text string) {
	t.Helper()
	// Without a terminal of its own, as a service has none.
	cmd.SysProcAttr = detached()
	out, err := cmd.CombinedOutput()
	var said []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "secretd: ") {
			said = append(said, line)
		}
	}
	if err == nil || cmd.ProcessState.ExitCode() != code || len(said) != 1 || !strings.Contains(said[0], text) {
		t.Errorf("exit %d, said %q; want %d and a line with %q", cmd.ProcessState.ExitCode(), out, code, text)
	}
}

// TestRollbackHasItsOwnExitCode puts an older store.db back.
func TestRollbackHasItsOwnExitCode(t *testing.T) {
	dir := stateDir(t)
	path := filepath.Join(dir, "secretd", "store.db")
	var older []byte
	for round := range 2 {
		cmd := start(t, dir)
		c := client.New(socketIn(dir))
		if _, err := c.Set(t.Context(), "my-agent", []api.Setting{{Name: "MY_KEY", Value: bytes.Repeat([]byte{byte('a' + round)}, 20)}}); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if round == 0 {
			var err error
			if older, err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(path, older, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--state", dir, "--socket", socketIn(dir)}
	refuses(t, command(t, args...), exitMistrust, "older than its anchor")
	cmd := command(t, append(args, "--accept-rollback")...)
	serving(t, cmd)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	start(t, dir)
}
