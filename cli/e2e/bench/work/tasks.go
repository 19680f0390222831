package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// task is a shell's script that runs in the folder. $N differs each time.
type task struct{ name, script string }

func tasks() []task {
	return []task{
		{"git status", "git -C repository status --short"},
		{"git clone", "git clone -q --no-hardlinks repository clone-$N"},
		{"rg", "tools/rg -c 'line 7 of' repository | tail -n 1"},
		{"5,000 small files", `mkdir made-$N; i=0; while [ $i -lt 5000 ]; do echo "$i" > made-$N/$i; i=$((i+1)); done`},
		{"go build", "cd program && go build -ldflags \"-X main.built=$N\" -o built ."},
		{"npm ci, offline", "cd project && npm ci --offline --ignore-scripts --no-audit --no-fund --loglevel=error"},
	}
}

// furnish makes what the tasks work on. Nothing of it comes from a network but npm's packages, once, before the clock.
func (w *workshop) furnish(files int) error {
	if err := os.MkdirAll(w.folder, 0o755); err != nil {
		return err
	}
	for _, step := range []func() error{func() error { return w.repository(files) }, w.program, w.project, w.tools, w.bundle} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// repository commits files of a few hundred bytes, fifty a folder.
func (w *workshop) repository(files int) error {
	root := filepath.Join(w.folder, "repository")
	for i := range files {
		dir := filepath.Join(root, fmt.Sprintf("part%02d/unit%02d", i/50%20, i/1000))
		if i%50 == 0 || i < 20*50 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		var text strings.Builder
		for line := range 12 {
			fmt.Fprintf(&text, "line %d of %d\n", line, i)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%05d.txt", i)), []byte(text.String()), 0o644); err != nil {
			return err
		}
	}
	return w.onHost(root, "git init -q && git config gc.auto 0 && git add . && git -c user.name=a -c user.email=a@example.com commit -q -m all && git repack -adq")
}

func (w *workshop) program() error {
	const text = "package main\n\nimport (\n\t\"encoding/json\"\n\t\"fmt\"\n\t\"net/http\"\n)\n\nvar built string\n\nfunc main() {\n\tb, _ := json.Marshal(http.Header{\"Built\": {built}})\n\tfmt.Println(string(b))\n}\n"
	dir := filepath.Join(w.folder, "program")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{"main.go": text, "go.mod": "module program\n\ngo 1.24\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return w.onHost(dir, "go build -o built .") // the cache is warm then
}

// project has some eighty packages, which npm puts into a cache in the folder.
func (w *workshop) project() error {
	const text = `{"name": "project", "private": true, "dependencies": {"@anthropic-ai/sdk": "0.65.0", "axios": "1.12.2",
  "ioredis": "5.8.1", "mysql2": "3.15.2", "openai": "5.23.2", "pg": "8.16.3", "ws": "8.18.3"}}`
	dir := filepath.Join(w.folder, "project")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(text), 0o644); err != nil {
		return err
	}
	return w.onHost(dir, "npm install --ignore-scripts --no-audit --no-fund --loglevel=error")
}

// tools brings the ripgrep that comes with Codex; make setup has installed it.
func (w *workshop) tools() error {
	found, err := filepath.Glob("cli/e2e/testdata/node/node_modules/@openai/codex-linux-*/vendor/*/codex-path/rg")
	if err != nil || len(found) == 0 {
		return fmt.Errorf("find ripgrep: make setup (%w)", err)
	}
	dir := filepath.Join(w.folder, "tools")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return exec.Command("cp", found[0], filepath.Join(dir, "rg")).Run()
}
