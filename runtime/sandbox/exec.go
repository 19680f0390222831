package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/superserve/superserve/runtime/bundle"
	"github.com/superserve/superserve/runtime/runsc"
)

// ErrNotRunning is returned by Exec for a run that has ended or never was.
var ErrNotRunning = errors.New("no such run is running")

// ExecConfig describes a further process in a running sandbox. It has the agent's uid, environment and network.
type ExecConfig struct {
	Binary string // as in Config
	Runsc  string // as in Config

	Command  []string
	Env      []string  // K=V, added to the agent's
	Dir      string    // in the sandbox; "" is /workspace
	Terminal *Terminal // as in Config
	Stdin    io.Reader
	Stdout   io.Writer
	Stderr   io.Writer
}

// Exec runs a process in a sandbox that any process of this host started with the same State, and waits for its end.
// When ctx ends the process is killed. It needs root.
func Exec(ctx context.Context, state, id string, cfg ExecConfig) (Result, error) {
	if err := (bundle.Process{Command: cfg.Command, Env: cfg.Env, Dir: cfg.Dir}).Check(); err != nil {
		return Result{}, err
	}
	full := Config{
		Binary: cfg.Binary, Runsc: cfg.Runsc, State: state, Command: cfg.Command, Env: cfg.Env,
		Terminal: cfg.Terminal, Stdin: cfg.Stdin, Stdout: cfg.Stdout, Stderr: cfg.Stderr,
	}
	if err := full.complete(); err != nil {
		return Result{}, err
	}
	rec, err := readRecord(RunDir(full.State, filepath.Base(id)))
	if err != nil || !rec.Running || rec.Sandbox == 0 || rec.ID != id {
		return Result{}, fmt.Errorf("exec in %q: %w", id, ErrNotRunning)
	}
	world, err := bundle.Join(rec.Sandbox, rec.Base)
	if err != nil {
		return Result{}, fmt.Errorf("exec in %q: %w", id, err)
	}
	defer world.Close()
	gv, err := runsc.New(runsc.Config{Path: full.Runsc, State: world.State(), Scratch: full.State, Network: "host"})
	if err != nil {
		return Result{}, err
	}
	return (&entered{world, gv, id}).run(ctx, &full, cfg.Dir)
}

// entered is a sandbox that another process supervises.
type entered struct {
	world *bundle.Bundle
	gv    *runsc.Runtime
	id    string
}

func (e *entered) run(ctx context.Context, cfg *Config, dir string) (Result, error) {
	st, err := newStreams(cfg, nil, nil)
	if err != nil {
		return Result{}, err
	}
	defer st.close()
	pidFile := filepath.Join(e.world.State(), fmt.Sprintf("exec-%d-%p", os.Getpid(), st))
	var p *runsc.Container
	err = e.world.Do(func() (err error) {
		p, err = e.gv.Exec(runsc.Process{
			ID: e.id, Command: cfg.Command, Env: cfg.Env, Dir: dir, PIDFile: pidFile,
			Stdio: st.inside, Terminal: cfg.Terminal != nil,
		})
		return err
	})
	st.started()
	if err != nil {
		return Result{}, err
	}
	st.control(inside{e.world, e.gv, e.id}.job(func() string { return e.pid(pidFile) }))
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		e.kill(p, pidFile)
	})
	exit, err := p.Wait()
	if !stop() {
		<-killed // it needs the world, which is closed next
		return Result{codeCancelled, ReasonCancelled, "cancelled"}, nil
	}
	if err != nil {
		return Result{}, err
	}
	e.world.Do(func() error { return os.Remove(pidFile) })
	if exit.Failure != "" {
		return judgeFailure(exit)
	}
	return Result{Code: exit.Code, Reason: ReasonExit}, nil
}

// pid is the process's number in the sandbox, once gVisor has written it down.
func (e *entered) pid(file string) string {
	var pid []byte
	e.world.Do(func() (err error) {
		pid, err = os.ReadFile(file)
		return err
	})
	return strings.TrimSpace(string(pid))
}

// kill ends the process: in the sandbox, of which runsc exec is only an onlooker, and if that fails at least here.
func (e *entered) kill(p *runsc.Container, pidFile string) {
	err := e.world.Do(func() error {
		pid, err := os.ReadFile(pidFile)
		if err != nil {
			return err
		}
		return e.gv.SignalProcessCommand(e.id, strings.TrimSpace(string(pid)), syscall.SIGKILL).Run()
	})
	if err != nil {
		p.Kill()
	}
}
