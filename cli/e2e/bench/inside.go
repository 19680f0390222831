package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// insideHost is the name of the database in a sandbox, where localhost is the sandbox.
const insideHost = "db.bench.test"

// inside has the clients of near's ways run in gVisor, as an agent's do. Ours is then a
// whole run: the cage, and the proxy that belongs to it. The others are gVisor alone with
// the same flags on the host's network, no hook and no proxy before what they connect to.
func (b *bench) inside(near ways, scheme string, port int) ways {
	return func(ctx context.Context, clear bool) ([]*relay, error) {
		bin, err := b.binary()
		if err != nil {
			return nil, err
		}
		all, err := near(ctx, clear)
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			if r.name != nameOurs {
				r.place = b.inGVisor(bin)
			}
		}
		secret := url.URL{Scheme: scheme, User: url.UserPassword("", key), Host: fmt.Sprintf("%s:%d", insideHost, port), Path: "/"}
		if scheme == "postgres" {
			secret.User = url.UserPassword("bench", key)
		}
		resolve := fmt.Sprintf("%s:%s", secret.Host, addr(all[0].port))
		ours := &relay{&child{port: port}, nameOurs, "", b.inSandbox(bin, secret.String(), resolve)}
		return []*relay{all[0], all[1], ours}, nil
	}
}

// place turns a command of the host into one that runs somewhere else. The password is in
// the environment of the second kind only as a placeholder.
type place func(ctx context.Context, argv, env []string) (*exec.Cmd, error)

// inSandbox runs a command with `superserve run`. Of BENCH_URL it has what a client needs.
func (b *bench) inSandbox(bin, secret, resolve string) place {
	return func(ctx context.Context, argv, env []string) (*exec.Cmd, error) {
		dir := filepath.Join(b.dir, "inside")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		args := []string{"--state", filepath.Join(b.dir, "state"), "run", "-q", "-t=false", "-i=false", "--secret", "BENCH_URL",
			"--upstream-ca", filepath.Join(b.dir, "ca.pem"), "--resolve", resolve}
		for _, kv := range env {
			args = append(args, "--env", kv)
		}
		const script = `p=${BENCH_URL#*://*:}; export PGPASSWORD=${p%@*}
case $0 in *redis*) exec "$0" "$@" -a "$PGPASSWORD";; esac; exec "$0" "$@"`
		cmd := exec.CommandContext(ctx, bin, append(append(args, "--", "sh", "-c", script), argv...)...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "BENCH_URL="+secret)
		return cmd, nil
	}
}

// inGVisor runs a command with the flags of gVisor that a run has (runtime/runsc).
func (b *bench) inGVisor(bin string) place {
	number := 0
	return func(ctx context.Context, argv, env []string) (*exec.Cmd, error) {
		number++
		dir := filepath.Join(b.dir, "gvisor-"+strconv.Itoa(number))
		root := filepath.Join(dir, "rootfs")
		var err error
		for _, name := range []string{"usr", "proc", "dev", "tmp", "etc"} {
			err = errors.Join(err, os.MkdirAll(filepath.Join(root, name), 0o755))
		}
		for _, name := range []string{"bin", "lib", "lib64"} {
			if failed := os.Symlink("usr/"+name, filepath.Join(root, name)); !errors.Is(failed, os.ErrExist) {
				err = errors.Join(err, failed)
			}
		}
		const users = "agent:x:1000:1000::/tmp:/bin/sh\n"
		spec, failed := json.Marshal(insideSpec(root, argv, env))
		err = errors.Join(err, failed, os.WriteFile(filepath.Join(root, "etc", "passwd"), []byte(users), 0o644),
			os.WriteFile(filepath.Join(dir, "config.json"), spec, 0o600))
		if err != nil {
			return nil, err
		}
		cmd := exec.CommandContext(ctx, bin)
		cmd.Args = []string{"runsc", "--root", filepath.Join(b.dir, "runsc"), "--network=host", "--platform=systrap", "--ignore-cgroups",
			"--gofer-network-namespace=new", "run", "--bundle", dir, fmt.Sprint("bench-inside-", os.Getpid(), "-", number)}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return cmd, nil
	}
}

// insideSpec has no network namespace of its own.
func insideSpec(root string, argv, env []string) map[string]any {
	return map[string]any{
		"ociVersion": "1.0.0",
		"process":    map[string]any{"user": map[string]int{"uid": 1000, "gid": 1000}, "args": argv, "cwd": "/", "env": append(env, "HOME=/tmp")},
		"root":       map[string]any{"path": root, "readonly": true},
		"mounts": []map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
			{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": []string{"mode=1777"}},
			{"destination": "/usr", "type": "bind", "source": "/usr", "options": []string{"rbind", "ro"}},
		},
		"linux": map[string]any{"namespaces": []map[string]string{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}}},
	}
}

// client is a command that connects to r, from where r's clients are.
func (r *relay) client(ctx context.Context, argv, env []string) (*exec.Cmd, error) {
	env = append(env, "PATH="+os.Getenv("PATH"), "LC_ALL=C.UTF-8")
	if r.place != nil {
		return r.place(ctx, argv, env)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = env
	return cmd, nil
}

// at is the name by which a client connects to r.
func (r *relay) at() string {
	if r.cmd == nil {
		return insideHost
	}
	return "127.0.0.1"
}
