//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superserve/superserve/proxy/login/logintest"
)

// toolFiles are the files of tools that read their credentials from nowhere else.
const toolFiles = `
env: {AWS_DEFAULT_REGION: us-east-1, GH_PROMPT_DISABLED: 1, npm_config_update_notifier: false}
files:
  ~/.netrc: {format: netrc, secret: API_TOKEN, user: me}
  ~/.aws/credentials: {format: aws}
  ~/.config/gh/hosts.yml: {format: gh}
  ~/.kube/config: {format: kubeconfig, secret: KUBE_TOKEN, host: kube.example.com}
  /workspace/.npmrc: {format: npmrc, secret: NPM_TOKEN, host: npm.example.com}
  /workspace/conf/own.txt: |
    token ${API_TOKEN} costs $5
`

// tools use them, without one variable that would tell them a key.
const tools = `
unset API_TOKEN AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY GITHUB_TOKEN KUBE_TOKEN NPM_TOKEN
curl -sS --netrc -o /dev/null https://api.example.com/netrc || echo curl fails
npm whoami || echo npm fails
gh api user --jq .login || echo gh fails
kubectl get --raw /version || echo kubectl fails
/usr/bin/python3 -c 'import boto3; print(boto3.client("sts").get_caller_identity()["Account"])' || echo boto3 fails
stat -c '%a %U' ~/.netrc ~/.aws/credentials ~/.aws .npmrc conf/own.txt conf
cat conf/own.txt conf/kept.txt ~/.netrc .npmrc
echo mine > conf/own.txt && mv conf/own.txt conf/other.txt && cat conf/other.txt
`

// service answers like the services of the tools.
func service(w http.ResponseWriter, r *http.Request) {
	switch r.Host {
	case "npm.example.com":
		io.WriteString(w, `{"username": "npm-user"}`)
	case "api.github.com":
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"login": "gh-user"}`)
	case "kube.example.com":
		io.WriteString(w, `{"gitVersion": "kube-version"}`)
	case "sts.us-east-1.amazonaws.com", "sts.amazonaws.com":
		io.WriteString(w, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Account>aws-account</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`)
	}
}

// TestCredentialFiles runs tools that read their credentials from files. Each finds a placeholder, and its server the key.
func TestCredentialFiles(t *testing.T) {
	hosts := []string{"api.example.com", "npm.example.com", "api.github.com", "kube.example.com", "sts.amazonaws.com", "sts.us-east-1.amazonaws.com"}
	w := newWorld(t, hosts...)
	for _, h := range hosts {
		w.extra[h] = http.HandlerFunc(service)
	}
	keys := map[string]string{
		"API_TOKEN": "Zk3yRealNetrc0Real0Real0Real0099", "NPM_TOKEN": "npm_Zk3yRealNpmReal0Real0Real0Real009912", "KUBE_TOKEN": "Zk3yRealKube0Real0Real0Real0Real0099",
		"AWS_ACCESS_KEY_ID": "AKIAZK3YREALREALREAL", "AWS_SECRET_ACCESS_KEY": "Zk3yRealAwsReal0Real0Real0Real0Real0Real", "GITHUB_TOKEN": "ghp_Zk3yRealGitHubReal0Real0Real0Real0099",
	}
	flags := map[string][]string{
		"API_TOKEN": {"--host", "api.example.com", "--use", "basic:password"}, "NPM_TOKEN": {"--host", "npm.example.com", "--use", "bearer"},
		"KUBE_TOKEN": {"--host", "kube.example.com", "--use", "bearer"},
	}
	names := []string{}
	for name, key := range keys {
		w.set("filer", name, key, flags[name]...)
		names = append(names, name)
	}
	dir := project(t, map[string]string{
		"superserve.yaml": "name: filer\ncommand: bash main.sh\nsecrets: [" + strings.Join(names, ", ") + "]\n" + toolFiles,
		"main.sh":         tools, "conf/kept.txt": "kept\n",
	})
	// Where a project has a link, the file stands all the same, and what the link leads to is not touched.
	outside := filepath.Join(t.TempDir(), "outside")
	link(t, outside, filepath.Join(dir, ".npmrc"))
	r := w.run(dir)
	for _, want := range []string{
		"npm-user\n", "gh-user\n", "kube-version", "aws-account\n", "600 agent\n600 agent\n755 agent\n600 agent\n600 agent\n755 agent\n",
		" costs $5\nkept\n", "machine api.example.com\n", "mine\n",
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the agent did not print %q", want)
		}
	}
	if r.code != 0 || t.Failed() {
		t.Errorf("exit %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	w.wantClean(t, "output", r.stdout+r.stderr)
	w.wantKeysAt(t, map[string]string{
		"api.example.com": "Basic " + base64.StdEncoding.EncodeToString([]byte("me:"+keys["API_TOKEN"])), "npm.example.com": "Bearer " + keys["NPM_TOKEN"],
		"api.github.com": "token " + keys["GITHUB_TOKEN"], "kube.example.com": "Bearer " + keys["KUBE_TOKEN"],
		"sts.": "AWS4-HMAC-SHA256 Credential=" + keys["AWS_ACCESS_KEY_ID"] + "/",
	})
	if _, err := os.Lstat(outside); err == nil {
		t.Error("a link of the project was followed")
	}
}

// wantKeysAt wants a request to each host whose Authorization begins so.
func (w *world) wantKeysAt(t *testing.T, want map[string]string) {
	t.Helper()
	for host, authorization := range want {
		found := false
		for _, req := range w.requests() {
			found = found || strings.HasPrefix(req.Host, host) && strings.HasPrefix(req.Header.Get("Authorization"), authorization)
		}
		if !found {
			t.Errorf("%s saw no request with its key", host)
		}
	}
}

// TestCredentialFilesInAKeptHome has two runs at once in one home: each finds its own placeholder, the home on the host
// holds none, and what an agent planted there leads nowhere.
func TestCredentialFilesInAKeptHome(t *testing.T) {
	w := newWorld(t, "api.example.com")
	w.set("kept", "API_TOKEN", "Zk3yRealNetrc0Real0Real0Real0099", "--host", "api.example.com", "--use", "basic")
	dir := project(t, map[string]string{
		"superserve.yaml": "name: kept\ncommand: sh main.sh\nsecrets: [API_TOKEN]\nfiles:\n  ~/.sub/netrc: {format: netrc, secret: API_TOKEN}\n",
		"main.sh":         "grep -q \"$API_TOKEN\" ~/.sub/netrc && echo mine\ncurl -sS -o /dev/null -w '%{http_code}\\n' --netrc-file ~/.sub/netrc https://api.example.com/\ntouch ~/.sub/visited; cat ~/.sub/netrc\n",
	})
	home := t.TempDir()
	ended := make(chan result, 2)
	for range 2 {
		go func() { ended <- w.run(dir, "--home", home) }()
	}
	var placeholders []string
	for range 2 {
		r := <-ended
		if r.code != 0 || !strings.HasPrefix(r.stdout, "mine\n200\nmachine api.example.com\n") {
			t.Fatalf("exit %d\n%s%s", r.code, r.stdout, r.stderr)
		}
		placeholders = append(placeholders, r.stdout[strings.LastIndex(r.stdout, " ")+1:])
	}
	if placeholders[0] == placeholders[1] {
		t.Error("two runs have one placeholder")
	}
	if text, err := os.ReadFile(filepath.Join(home, ".sub", "netrc")); err != nil || len(text) != 0 {
		t.Errorf("the host's home keeps %q, %v", text, err)
	}
	if _, err := os.Stat(filepath.Join(home, ".sub", "visited")); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(filepath.Join(home, ".sub")); err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	link(t, outside, filepath.Join(home, ".sub"))
	if r := w.run(dir, "--home", home); r.code != 1 || !strings.Contains(r.stderr, `file "/home/agent/.sub/netrc" in the agent's home`) {
		t.Errorf("with a planted link: exit %d\n%s", r.code, r.stderr)
	}
	if found, err := os.ReadDir(outside); err != nil || len(found) != 0 {
		t.Errorf("a link of the agent was followed: %v, %v", found, err)
	}
	if r := w.run(dir, "--workspace", dir); r.code != 0 { // no file is below /workspace
		t.Errorf("with a real folder: exit %d\n%s", r.code, r.stderr)
	}
}

// TestPasswordFile has psql read .pgpass.
func TestPasswordFile(t *testing.T) {
	w := newWorld(t, "api.openai.com")
	_, flags := w.database(t)
	dir := project(t, map[string]string{
		"superserve.yaml": "name: db\ncommand: sh main.sh\nsecrets: [DATABASE_URL]\nfiles:\n  ~/.pgpass: {format: pgpass}\n",
		"main.sh":         fmt.Sprintf("unset DATABASE_URL\npsql -w -h %s -p %d -U user_scram -d postgres -Atc 'SELECT current_user'\n", logintest.Host, logintest.Port),
	})
	r := w.superserve("", append(flags, dir)...)
	if r.code != 0 || r.stdout != "user_scram\n" {
		t.Errorf("exit %d, stdout %q\nstderr: %s", r.code, r.stdout, r.stderr)
	}
}
