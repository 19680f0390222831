//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/superserve/superserve/proxy/web/sign/s3test"
)

// s3World is a world whose AWS is a real server of S3, and one of IAM and STS.
type s3World struct {
	*world
	server *s3test.Server
	flags  []string
}

func newS3World(t testing.TB, server *s3test.Server) *s3World {
	t.Helper()
	w := &s3World{world: newWorld(t, "unused.example.com"), server: server}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, server.PEM, 0o644); err != nil {
		t.Fatal(err)
	}
	w.flags = []string{"--upstream-ca", caFile, "--env", "AWS_REGION=" + s3test.Region, "--env", "AWS_DEFAULT_REGION=" + s3test.Region, "--env", "AWS_EC2_METADATA_DISABLED=true"}
	for host, addr := range map[string]string{
		s3test.Host: server.Addr.String(), s3test.BucketHost: server.Addr.String(), s3test.STS: server.STSAddr.String(),
		s3test.IAM: server.STSAddr.String(),
	} {
		w.flags = append(w.flags, "--resolve", fmt.Sprintf("%s:443:%s", host, addr))
	}
	return w
}

// give stores an agent's keys and returns the names of its secrets.
func (w *s3World) give(agent string, keys s3test.Keys) string {
	w.t.Helper()
	w.set(agent, "AWS_ACCESS_KEY_ID", keys.ID)
	w.set(agent, "AWS_SECRET_ACCESS_KEY", keys.Secret)
	if keys.Token == "" {
		return "[AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY]"
	}
	w.set(agent, "AWS_SESSION_TOKEN", keys.Token)
	return "[AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN]"
}

// runS3 runs a program of testdata/aws, or another that is mounted, with keys.
func (w *s3World) runS3(agent, command string, keys s3test.Keys, flags ...string) result {
	w.t.Helper()
	files := map[string]string{"superserve.yaml": fmt.Sprintf("name: %s\ncommand: %s\nsecrets: %s\n", agent, command, w.give(agent, keys))}
	for _, name := range []string{"s3.py", "s3.mjs", "s3.sh", "iam.py"} {
		text, err := os.ReadFile(filepath.Join("testdata/aws", name))
		if err != nil {
			w.t.Fatal(err)
		}
		files[name] = string(text)
	}
	args := append([]string{"run"}, w.flags...)
	r := w.superserve("", append(append(args, flags...), project(w.t, files))...)
	w.wantClean(w.t, "stdout", r.stdout)
	w.wantClean(w.t, "stderr", r.stderr)
	w.scanState(w.t)
	return r
}

// mount shows a folder beside this file to the agent.
func mount(t testing.TB, from, to string) []string {
	t.Helper()
	full, err := filepath.Abs(from)
	if err != nil {
		t.Fatal(err)
	}
	return []string{"--mount", full + ":" + to + ":ro"}
}

// TestS3Clients has AWS's own clients work with a server of S3 that verifies every
// signature, with lasting keys and with a session's, from a sandbox that has neither.
func TestS3Clients(t *testing.T) {
	server := s3test.Start(t)
	for _, tt := range []struct {
		name, command string
		keys          s3test.Keys
		flags         []string
		want          []string
	}{
		{"boto3", "/usr/bin/python3 s3.py", server.Session, nil,
			[]string{"py-bytes ok", "py-trailer é+ ok", "py-signed ok", "py-path//x ok", "py-parts ok", "py-url ok", "deleted py-url", "assumed-role/agent/test"}},
		{"awscli", "sh s3.sh", server.Account, nil, []string{"download: ", "presigned"}},
		{"javascript", "node s3.mjs", server.Session, mount(t, "testdata/aws/node_modules", "/node_modules"),
			[]string{"js-buffer ok", "js-stream é+ ok", "js-sha256 ok", "js-parts ok", "js-url ok", "js-gzip ok", "deleted js-url", "assumed-role/agent/test"}},
		{"minio", "/s3/client", server.Account, mount(t, "testdata/s3/bin", "/s3"),
			[]string{"minio-small ok", "minio-trailer ok", "minio-parts ok", "url ok", "minio-chunks ok", "lists minio-chunks"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newS3World(t, server)
			r := w.runS3(tt.name, tt.command, tt.keys, tt.flags...)
			for _, want := range tt.want {
				if !strings.Contains(r.stdout, want) {
					t.Errorf("no %q", want)
				}
			}
			if r.code != 0 || t.Failed() {
				t.Fatalf("exit %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
			}
		})
	}
}

// TestS3WrongKey shows that the agent gets S3's own answer when the real key is wrong,
// or its own signature is.
func TestS3WrongKey(t *testing.T) {
	server := s3test.Start(t)
	w := newS3World(t, server)
	wrong := server.Account
	wrong.Secret = "wr0ng/Real+Real/RealRealRealRealRealReal"
	const list = `/usr/bin/python3 -c "import boto3; boto3.client('s3').list_objects_v2(Bucket='bucket')"`
	if r := w.runS3("wrong", list, wrong); r.code != 1 || !strings.Contains(r.stderr, "(SignatureDoesNotMatch)") {
		t.Errorf("a wrong key: exit %d\nstderr: %s", r.code, r.stderr)
	}
	const other = `/usr/bin/python3 -c "import boto3; boto3.client('s3', aws_secret_access_key='another', aws_access_key_id=__import__('os').environ['AWS_ACCESS_KEY_ID']).list_objects_v2(Bucket='bucket')"`
	r := w.runS3("other", other, server.Account)
	if r.code != 1 || !strings.Contains(r.stderr, "credential_signature") && !strings.Contains(r.stderr, "403") {
		t.Errorf("a signature of the agent's own: exit %d\nstderr: %s", r.code, r.stderr)
	}
}

// TestIssuedKeys has an agent make a user with a key of its own, and work as that user:
// it gets a placeholder of the key that IAM handed out.
func TestIssuedKeys(t *testing.T) {
	server := s3test.Start(t)
	w := newS3World(t, server)
	r := w.runS3("issued", "/usr/bin/python3 iam.py", server.Account)
	if r.code != 0 || !strings.Contains(r.stdout, "read hello") || !strings.Contains(r.stdout, ":user/bob") {
		t.Fatalf("exit %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	text, err := os.ReadFile(server.Users)
	if err != nil {
		t.Fatal(err)
	}
	secrets := regexp.MustCompile(`(?i)"secretAccessKey": ?"([^"]+)"`).FindAllSubmatch(text, -1)
	if len(secrets) < 2 {
		t.Fatalf("IAM's server keeps %d keys", len(secrets))
	}
	for i, m := range secrets {
		w.real[fmt.Sprint("issued ", i)] = string(m[1])
	}
	w.wantClean(t, "stdout", r.stdout)
	w.scanState(t)
}
