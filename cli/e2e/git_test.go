//go:build e2e

package e2e

import (
	"net/http"
	"net/http/cgi"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const gitScript = `set -e
export GIT_TERMINAL_PROMPT=0
git config --global user.email a@example.com
git config --global user.name agent
git clone -q "https://x-access-token:$GITHUB_TOKEN@github.com/o/r.git"
cd r
cat README
echo pushed > new
git add new
git commit -qm "by the agent"
git push -q origin HEAD
git log --format=%s
git remote get-url origin
`

// TestGitCloneAndPush clones and pushes over https with the token as Basic's password, as a coding agent
// does; git http-backend is the forge.
func TestGitCloneAndPush(t *testing.T) {
	repos := t.TempDir()
	bare := filepath.Join(repos, "o", "r.git")
	shell(t, repos, `git init -q -b main --bare o/r.git && git -C o/r.git config http.receivepack true
		git init -q -b main w && cd w && echo hello > README && git add . &&
		git -c user.email=a@b -c user.name=n commit -qm first && git push -q ../o/r.git main`)
	w := newWorld(t, "github.com")
	backend := &cgi.Handler{
		Path: gitBackend(t), Root: "/", Dir: repos,
		Env: []string{"GIT_PROJECT_ROOT=" + repos, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=agent"},
	}
	w.extra["github.com"] = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != githubToken {
			rw.Header().Set("WWW-Authenticate", `Basic realm="forge"`)
			http.Error(rw, "who are you?", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(rw, r)
	})
	w.set("matrix", "GITHUB_TOKEN", githubToken)
	w.during = func() { w.scanProcesses(t) }
	r := w.run(project(t, map[string]string{
		"superserve.yaml": "name: matrix\ncommand: sh go.sh\nsecrets: [GITHUB_TOKEN]\n",
		"go.sh":           gitScript,
	}))
	if r.code != 0 || !strings.Contains(r.stdout, "hello\nby the agent\nfirst\n") {
		t.Fatalf("exit %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	if got := shell(t, bare, "git log --format=%s main"); got != "by the agent\nfirst\n" {
		t.Errorf("the forge has %q", got)
	}
	w.wantClean(t, "stdout", r.stdout)
	w.wantClean(t, "stderr", r.stderr)
	w.scanState(t)
}

func gitBackend(t *testing.T) string {
	t.Helper()
	return filepath.Join(strings.TrimSpace(shell(t, ".", "git --exec-path")), "git-http-backend")
}

func shell(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}
