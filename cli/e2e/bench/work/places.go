package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The places, in the order of a round.
const (
	nameOurs  = "superserve"
	nameAlone = "runsc"
	nameHost  = "host"
)

// workshop is the folder and the places in which tasks are done. It is used by one goroutine.
type workshop struct {
	ctx    context.Context
	bin    string
	dir    string // what is only the benchmark's
	folder string // what is /workspace
	number int
}

// place is where a task is done.
type place struct {
	name    string
	folder  string // the folder's path there
	command func(argv []string, env []string) (*exec.Cmd, error)
}

func (w *workshop) places() []place {
	return []place{
		{nameOurs, "/workspace", w.ours},
		{nameAlone, "/workspace", w.alone},
		{nameHost, w.folder, w.host},
	}
}

// taskTime bounds one task in one place.
const taskTime = 5 * time.Minute

// do returns how long a task took, by a clock inside.
func (w *workshop) do(t task, p place) (time.Duration, error) {
	w.number++
	script := fmt.Sprintf("cd %s; N=%d; b=$(date +%%s%%N); ( %s ) >&2; c=$?; e=$(date +%%s%%N); echo $(((e-b)/1000)); exit $c", p.folder, w.number, t.script)
	env := append(w.environment(p.folder), "PATH=/usr/local/go/bin:/usr/local/bin:/usr/bin:/bin")
	cmd, err := p.command([]string{"sh", "-c", script}, env)
	if err != nil {
		return 0, err
	}
	timer := time.AfterFunc(taskTime, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer timer.Stop()
	out, err := cmd.Output()
	w.tidy()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return 0, fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	return time.Duration(n) * time.Microsecond, err
}

// tidy removes what a task has made, outside of its time.
func (w *workshop) tidy() {
	for _, pattern := range []string{"clone-*", "made-*"} {
		found, _ := filepath.Glob(filepath.Join(w.folder, pattern))
		for _, name := range found {
			os.RemoveAll(name)
		}
	}
}

// environment keeps the caches in the folder, so that they are the same in each place.
func (w *workshop) environment(folder string) []string {
	return []string{
		"HOME=/tmp", "GOCACHE=" + folder + "/.gocache", "GOFLAGS=-trimpath", "GOTOOLCHAIN=local", "CGO_ENABLED=0",
		"npm_config_cache=" + folder + "/.npm", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
	}
}

// onHost prepares something.
func (w *workshop) onHost(dir, script string) error {
	cmd := exec.CommandContext(w.ctx, "sh", "-c", script)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), w.environment(w.folder)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("prepare %s: %w: %s", filepath.Base(dir), err, out)
	}
	return nil
}

func (w *workshop) host(argv, env []string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(w.ctx, argv[0], argv[1:]...)
	cmd.Env = env
	return cmd, nil
}

func (w *workshop) ours(argv, env []string) (*exec.Cmd, error) {
	args := []string{"run", "-q", "-t=false", "-i=false"}
	for _, kv := range env {
		args = append(args, "--env", kv)
	}
	cmd := exec.CommandContext(w.ctx, w.bin, append(append(args, "--"), argv...)...)
	cmd.Dir, cmd.Env = w.folder, append(os.Environ(), "SUPERSERVE_STATE="+filepath.Join(w.dir, "state"))
	return cmd, nil
}

// alone runs gVisor with its own defaults: the host's programs read-only, the folder to be written through.
func (w *workshop) alone(argv, env []string) (*exec.Cmd, error) {
	bind := func(path, to, how string) map[string]any {
		return map[string]any{"destination": to, "type": "bind", "source": path, "options": []string{"rbind", how}}
	}
	spec, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.0",
		"process":    map[string]any{"user": map[string]int{"uid": 0, "gid": 0}, "args": argv, "cwd": "/", "env": env, "capabilities": map[string]any{"effective": []string{"CAP_DAC_OVERRIDE"}, "permitted": []string{"CAP_DAC_OVERRIDE"}, "bounding": []string{"CAP_DAC_OVERRIDE"}}},
		"root":       map[string]any{"path": filepath.Join(w.dir, "bundle", "rootfs"), "readonly": true},
		"mounts": []map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc"}, {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
			{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}, bind("/usr", "/usr", "ro"), bind(w.folder, "/workspace", "rw"),
		},
		"linux": map[string]any{"namespaces": []map[string]string{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}}},
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(w.dir, "bundle", "config.json"), spec, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(w.ctx, w.bin)
	cmd.Args = []string{"runsc", "--root", filepath.Join(w.dir, "runsc"), "--ignore-cgroups", "run", "--bundle", filepath.Join(w.dir, "bundle"), fmt.Sprint("work-", os.Getpid(), "-", w.number)}
	return cmd, nil
}

// bundle makes the root of gVisor alone.
func (w *workshop) bundle() error {
	root := filepath.Join(w.dir, "bundle", "rootfs")
	for _, name := range []string{"usr", "proc", "dev", "tmp", "workspace", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"bin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+name, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	return nil
}

// close takes away what gVisor keeps mounted below its --root.
func (w *workshop) close() {
	syscall.Unmount(filepath.Join(w.dir, "runsc", "null-netns"), syscall.MNT_DETACH)
}
