package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"go.uber.org/zap"

	"github.com/superserve/superserve/runtime/bundle"
	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/runtime/runsc"
)

// Reason says why a run ended.
type Reason string

// The reasons. All but ReasonExit mean that the agent did not end by itself.
const (
	ReasonExit      Reason = "exit"      // the command ended
	ReasonCommand   Reason = "command"   // the command could not be started
	ReasonTimeout   Reason = "timeout"   // Config.Timeout passed
	ReasonMemory    Reason = "memory"    // the kernel ended the sandbox for Limits.Memory
	ReasonProxy     Reason = "proxy"     // the proxy died, and the sandbox was ended with it
	ReasonSandbox   Reason = "sandbox"   // gVisor failed
	ReasonCage      Reason = "cage"      // root took a hook off the cage, or a process out of it
	ReasonCancelled Reason = "cancelled" // the context ended, or Close was called
	ReasonLost      Reason = "lost"      // the supervisor was killed
)

// The codes of a run that the agent did not end itself. 124 is that of timeout(1), 126 and 127 are the shell's, 130 is a
// shell's for SIGINT, 137 for SIGKILL.
const (
	codeTimeout       = 124
	codeFailed        = 125
	codeNotExecutable = 126
	codeNotFound      = 127
	codeCancelled     = 130
	codeKilled        = 137
)

// Result is how a run ended.
type Result struct {
	Code   int    `json:"code"`             // the agent's exit code, 128 + signal, or one that stands for Reason
	Reason Reason `json:"reason"`           //
	Detail string `json:"detail,omitempty"` // a sentence, unless Reason is ReasonExit
}

// Sandbox is one run. Its methods are safe for concurrent use.
type Sandbox struct {
	cfg       Config
	id        string
	ids       bundle.IDs
	grant     Granted
	dir       *runDir
	cage      cage
	world     *bundle.Bundle
	proxy     *proxyProcess
	proxyLeaf *cgroup.Leaf // with proxyLimits
	audit     *auditLog
	io        *streams
	gv        *runsc.Runtime
	ctr       *runsc.Container
	gVisor    *gVisor // what meetGVisor found, and if not why
	met       error

	orders *orders
	// attendants are asked where the terminal is the agent's.
	attendants attendants
	asking     sync.WaitGroup // questions that wait for their answers
	// replies counts those that had one.
	replies atomic.Int32
	// askable ends when no more is asked.
	askable    context.Context
	stopAsking context.CancelFunc

	mu     sync.Mutex // guards what follows
	cause  Result     // why the sandbox was killed; zero if it was not
	result Result     // valid when done is closed
	err    error      // the same
	done   chan struct{}
}

// Run starts a sandbox and waits for its end. When ctx ends the sandbox is killed, and Run returns once nothing of it
// runs any more: with ctx's error if the agent had not begun, else with ReasonCancelled. An error means that the agent
// was not started, or that the sandbox failed under it (Result.Code 125).
func Run(ctx context.Context, cfg Config) (Result, error) {
	s, err := Start(ctx, cfg)
	if err != nil {
		return Result{}, err
	}
	stop := context.AfterFunc(ctx, func() { s.kill(Result{codeCancelled, ReasonCancelled, "cancelled"}) })
	defer stop()
	return s.Wait(context.WithoutCancel(ctx))
}

// ID names the run: its directory, control group and audit lines.
func (s *Sandbox) ID() string { return s.id }

// Wait waits until the run has ended and nothing of it is left, or until ctx ends, which does not end the run. It may be
// called any number of times.
func (s *Sandbox) Wait(ctx context.Context) (Result, error) {
	select {
	case <-s.done:
		return s.result, s.err
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

// Signal sends a signal to the agent's first process. SIGKILL ends the whole sandbox.
func (s *Sandbox) Signal(sig os.Signal) error {
	n, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal sandbox: unknown signal %v", sig)
	}
	if s.ended() {
		return fmt.Errorf("signal sandbox: %w", os.ErrProcessDone)
	}
	if n == syscall.SIGKILL {
		s.kill(Result{codeKilled, ReasonExit, ""})
		return nil
	}
	if err := s.world.Do(s.gv.SignalCommand(s.id, n, false).Run); err != nil {
		return fmt.Errorf("signal sandbox: %w", err)
	}
	return nil
}

// Resize tells the agent's terminal its size, in characters.
func (s *Sandbox) Resize(rows, cols uint16) error {
	if s.ended() {
		return fmt.Errorf("resize: %w", os.ErrProcessDone)
	}
	return s.io.resize(rows, cols)
}

// Raw reports whether the agent draws the terminal's screen itself: then nobody else may write to it. It is false for
// an agent without a terminal, and for one that reads it by lines.
func (s *Sandbox) Raw() bool { return !s.ended() && s.io.raw() }

func (s *Sandbox) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Close kills the sandbox, if it still runs, and waits until nothing of it is left.
func (s *Sandbox) Close() error {
	s.kill(Result{codeCancelled, ReasonCancelled, "closed"})
	<-s.done
	if s.result.Reason == ReasonCancelled {
		return nil
	}
	return s.err
}

// kill ends the sandbox. The first cause is the one that counts.
func (s *Sandbox) kill(cause Result) {
	if s.ended() {
		return // perhaps it never began, and there is nothing to kill
	}
	s.mu.Lock()
	if s.cause == (Result{}) {
		s.cause = cause
	}
	s.mu.Unlock()
	s.ctr.Kill()
	// runsc's own death ends the rest by parent-death signals; this is for what might have escaped those.
	s.cage.leaf.Kill()
}

// supervise owns the run from its start to its end.
func (s *Sandbox) supervise(stop func()) {
	var followers sync.WaitGroup
	followers.Go(func() {
		s.proxy.follow(s.noticed)
		if !s.proxy.told.Load() {
			s.kill(Result{codeFailed, ReasonProxy, "the proxy ended under the agent"})
		}
	})
	stopOrders, stopSealing := s.takeOrders(), s.sealAudit()
	stopWatch, stopGofer, stopYield := s.watch(), s.watchGofer(), s.yield()
	exit, err := s.ctr.Wait()
	stopWatch()
	stopYield()
	s.stopAsking()
	s.asking.Wait()
	stopOrders()
	stopSealing()
	s.cfg.Log.Debug("agent ended", zap.Int("code", exit.Code))
	stop()
	lost := s.blameGVisor(exit, stopGofer)
	s.mu.Lock()
	cause := s.cause
	if cause == (Result{}) {
		cause = lost
		s.cause = Result{Reason: ReasonExit} // what follows kills, but is no cause
	}
	s.mu.Unlock()
	oom := s.cage.leaf.OOMKilled()
	s.result, s.err = judge(exit, err, cause, oom)
	if s.result.Reason == ReasonCommand {
		s.result.Detail = fmt.Sprintf("%q: %s", s.cfg.Command[0], s.result.Detail)
	}
	s.err = errors.Join(s.err, s.release())
	followers.Wait()
	s.cfg.Log.Debug("run ended", zap.Int("code", s.result.Code), zap.String("reason", string(s.result.Reason)), zap.Error(s.err))
	close(s.done)
}

// judge says how a run ended. A kill of ours looks like a failure of gVisor's, so the cause comes first.
func judge(exit runsc.Exit, err error, cause Result, oom bool) (Result, error) {
	switch {
	case oom && (err != nil || exit.Failure != "" || exit.Code == codeKilled):
		return Result{codeKilled, ReasonMemory, "the sandbox reached its memory limit"}, nil
	case cause.Code == codeFailed:
		return cause, fmt.Errorf("sandbox failed: %s", cause.Detail)
	case cause != (Result{}):
		return cause, nil
	case err != nil:
		return Result{codeFailed, ReasonSandbox, err.Error()}, fmt.Errorf("sandbox failed: %w", err)
	case exit.Failure != "":
		return judgeFailure(exit)
	}
	return Result{Code: exit.Code, Reason: ReasonExit}, nil
}

// judgeFailure tells a command that cannot be executed from a gVisor that failed. Most such commands are found by
// bundle.WriteSpec; this is for those on shared mounts and for scripts whose interpreter is missing.
func judgeFailure(exit runsc.Exit) (Result, error) {
	for _, m := range []struct {
		text string
		code int
	}{
		{"no such file or directory", codeNotFound},
		{"not a directory", codeNotFound},
		{"permission denied", codeNotExecutable},
		{"exec format error", codeNotExecutable},
	} {
		if startsCommand(exit.Failure) && strings.Contains(exit.Failure, m.text) {
			return Result{m.code, ReasonCommand, m.text}, nil
		}
	}
	return Result{codeFailed, ReasonSandbox, exit.Failure}, fmt.Errorf("sandbox failed: %s", exit.Failure)
}

// startsCommand reports whether it was the command that gVisor could not start (runsc/boot's words).
func startsCommand(failure string) bool {
	return strings.Contains(failure, "starting root container") || strings.Contains(failure, "executing processes for container")
}
