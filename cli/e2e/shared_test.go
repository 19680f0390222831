//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSharedProjectIsNotCopied runs a project in its own folder: nothing of it is deployed, and its file is read all the
// same.
func TestSharedProjectIsNotCopied(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	dir := folder(t, "shared")
	for name, text := range map[string]string{"superserve.yaml": "name: shared\ncommand: sh main.sh\nenv: {A: b}\n", "main.sh": "echo $A > made; cat made\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := w.here(dir, underSudo, "run", "--workspace", ".", ".")
	if made, err := os.ReadFile(filepath.Join(dir, "made")); r.code != 0 || r.stdout != "b\n" || err != nil || string(made) != "b\n" {
		t.Errorf("exit %d, %q, %v\n%s", r.code, r.stdout, err, r.stderr)
	}
	if list := w.superserve("", "agents", "list").stdout; strings.Contains(list, "shared") {
		t.Errorf("it was deployed:\n%s", list)
	}
	if found, err := filepath.Glob(filepath.Join(w.state, "agents", "*", "snapshots", "*")); err != nil || len(found) != 0 {
		t.Errorf("it was copied: %v, %v", found, err)
	}
}
