package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
)

// TestBackupAndRestore moves the secrets of one host to another by the two commands.
func TestBackupAndRestore(t *testing.T) {
	from, to := stateDir(t), stateDir(t)
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	identity, file := filepath.Join(to, "identity"), filepath.Join(to, "backup.age")
	if err := os.WriteFile(identity, []byte("# a key\n"+id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := start(t, from)
	c := client.New(socketIn(from))
	if _, err := c.Set(t.Context(), "my-agent", []api.Setting{{Name: "ANTHROPIC_API_KEY", Value: []byte(realKey)}}); err != nil {
		t.Fatal(err)
	}
	refuses(t, command(t, "backup", "--state", from, "--recipient", id.Recipient().String(), "--file", file), exitError, "another secretd")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if out, err := command(t, "backup", "--state", from, "--recipient", id.Recipient().String(), "--file", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	refuses(t, command(t, "backup", "--state", from, "--recipient", id.Recipient().String(), "--file", file), exitError, "file exists")
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v, %v; want mode 0600", info.Mode(), err)
	}
	readable(t, identity, file)

	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	restore := command(t, "restore", "--state", to, "--identity", identity)
	restore.Stdin = bytes.NewReader(b)
	if out, err := restore.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	refuses(t, command(t, "restore", "--state", to, "--identity", identity, "--file", file), exitError, "move the store")
	start(t, to)
	list, err := client.New(socketIn(to)).List(t.Context(), "my-agent")
	if err != nil || len(list) != 1 || list[0].Name != "ANTHROPIC_API_KEY" {
		t.Fatalf("%v, %v", list, err)
	}
}

// readable has Debian's age, where it is, open the backup: it is a file of age's format.
func readable(t *testing.T, identity, file string) {
	t.Helper()
	program, err := exec.LookPath("age")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("age is missing")
		}
		t.Log("age is missing")
		return
	}
	out, err := exec.Command(program, "--decrypt", "--identity", identity, file).Output()
	if err != nil || !strings.HasPrefix(string(out), `{"superserve_backup":1`) || bytes.Contains(out, []byte(realKey)) {
		t.Fatalf("age: %v", err)
	}
}

func TestBackupRefuses(t *testing.T) {
	dir := stateDir(t)
	none := filepath.Join(dir, "none")
	if err := os.WriteFile(none, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const secret = "AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ"
	for want, args := range map[string][]string{
		"needs --recipient":            {"backup", "--state", dir},
		"not a public key of age":      {"backup", "--state", dir, "--recipient", secret},
		"needs --identity":             {"restore", "--state", dir},
		"holds no identity of age":     {"restore", "--state", dir, "--identity", none},
		"no such file":                 {"restore", "--state", dir, "--identity", none + "x"},
		"--recipient belongs to":       {"restore", "--state", dir, "--recipient", secret},
		"--file belongs to backup and": {"rekey", "--state", dir, "--to", "file", "--file", none},
		"--identity belongs to":        {"--state", dir, "--identity", none},
		"--to belongs to":              {"--state", dir, "--to", "file"},
	} {
		t.Run("it says "+want, func(t *testing.T) {
			cmd := command(t, args...)
			refuses(t, cmd, exitError, want)
		})
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "secretd", "*.db")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
