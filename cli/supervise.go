package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

// ourselves is this program's file under whatever name it was installed; "" lets the sandbox look for it.
func ourselves() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	return self
}

// supervise starts the sandbox and stays until its end. A signal that comes while it starts ends the
// start; one that comes later is the agent's, and the second SIGINT or SIGTERM ends the sandbox.
func (sh *shell) supervise(ctx context.Context, cfg sandbox.Config, f runFlags) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	if err := sh.addAllowed(&cfg, f.quiet); err != nil {
		return err
	}
	out := sh.outlet(&cfg, f)
	asker := &allower{shell: sh, agent: cfg.Agent, state: cfg.State, own: f.brings, out: out}
	if sh.mayAllow(f) {
		cfg.Ask = asker.ask
	}
	cfg.Binary = ourselves()
	began := time.Now()
	s, err := sandbox.Start(ctx, cfg)
	if err != nil {
		return sh.startFailed(cfg.Agent, err)
	}
	out.agent.Store(s)
	settle := time.AfterFunc(trimAfter, collectAsUsual)
	defer settle.Stop()
	out.event(runEvent{Type: "run.started", Run: s.ID()})
	done, killed := make(chan struct{}), false
	var forwarder sync.WaitGroup
	forwarder.Go(func() { killed = sh.forward(s, signals, done, f.quiet) })
	result, err := s.Wait(context.WithoutCancel(ctx))
	close(done)
	forwarder.Wait()
	if killed {
		result.Code = exitInterrupted
	}
	out.flush()
	sh.heldNotes(out, s.ID())
	asker.afterwards()
	sh.afterwards(cfg, s.ID(), began, f)
	out.event(runEvent{Type: "run.completed", Run: s.ID(), Code: &result.Code, Reason: string(result.Reason), Text: result.Detail, Milliseconds: time.Since(began).Milliseconds()})
	return sh.ended(result, err, f)
}

// startFailed words the one failure of a start that is the user's to mend. Between the check and the
// grant a secret may have been deleted.
func (sh *shell) startFailed(name string, err error) error {
	var missing *api.MissingError
	if errors.As(err, &missing) {
		return sh.missingSecrets(name, missing.Names)
	}
	return err
}

// insistAfter is when a person who has interrupted a run that goes on is told how to end it. An agent
// that handles the signal is mostly done by then; a shell that waits for its child is not.
const insistAfter = 2 * time.Second

// forward passes signals on to the agent until done. It reports whether a second SIGINT or SIGTERM made
// it end the sandbox.
func (sh *shell) forward(s *sandbox.Sandbox, signals <-chan os.Signal, done <-chan struct{}, quiet bool) (killed bool) {
	endings := 0
	var insist <-chan time.Time
	for {
		select {
		case <-done:
			return killed
		case <-insist:
			if insist = nil; !quiet {
				sh.note("the agent goes on; interrupt again to end it")
			}
		case sig := <-signals:
			if sig == os.Interrupt || sig == syscall.SIGTERM {
				endings++
				insist = time.After(insistAfter)
			}
			if endings > 1 {
				sig, killed = syscall.SIGKILL, true
			}
			s.Signal(sig) // an error means that it has ended, which Wait says
		}
	}
}

// ended turns the result into this process's exit code, and says why if it was not the agent's doing.
func (sh *shell) ended(result sandbox.Result, err error, f runFlags) error {
	switch {
	case err != nil && result.Code == 0:
		return err
	case err != nil || result.Reason != sandbox.ReasonExit && result.Detail != "":
		text := result.Detail
		if text == "" {
			text = err.Error()
		}
		if !f.asJSON {
			sh.report(errors.New(text))
		}
	}
	if result.Code == 0 {
		return nil
	}
	return exitCode(result.Code)
}

// outlet is where a run's output goes: through to our own streams, or into events.
type outlet struct {
	json   bool
	stdout *lineEvents
	stderr *lineEvents
	w      io.Writer
	mu     *sync.Mutex // one event a write
	agent  atomic.Pointer[sandbox.Sandbox]
	say    func(text string)

	asking  sync.Mutex // guards what follows
	asked   bool       // a question stands on the terminal
	waiting []string   // notices that came meanwhile
	held    []string   // notices that came while the agent drew the screen
}

// runEvent is one line of `run --json`.
type runEvent struct {
	Type         string `json:"type"` // run.started, stdout, stderr, notice, run.completed
	Run          string `json:"run,omitempty"`
	Text         string `json:"text,omitempty"`
	Code         *int   `json:"code,omitempty"`
	Reason       string `json:"reason,omitempty"`
	Milliseconds int64  `json:"duration_ms,omitempty"`
}

// outlet connects the agent's streams.
func (sh *shell) outlet(cfg *sandbox.Config, f runFlags) *outlet {
	o := &outlet{json: f.asJSON, w: sh.out, mu: new(sync.Mutex)}
	if !f.noStdin {
		cfg.Stdin = sh.in
	}
	cfg.Stdout, cfg.Stderr = sh.out, sh.err
	if f.asJSON {
		o.stdout, o.stderr = &lineEvents{out: o, kind: "stdout"}, &lineEvents{out: o, kind: "stderr"}
		cfg.Stdout, cfg.Stderr = o.stdout, o.stderr
	}
	if f.tty {
		cfg.Terminal = &sandbox.Terminal{}
		if isTerminal(sh.in) {
			cfg.Terminal.File = sh.in
		}
	}
	o.say = func(text string) { sh.notice(o, f, text) }
	said := map[string]bool{}
	cfg.Notice = func(text string) {
		if subject, _, _ := strings.Cut(text, ": "); !said[subject] {
			said[subject] = true
			o.say(text)
		}
	}
	return o
}

// event prints one event in the JSON form, nothing otherwise.
func (o *outlet) event(e runEvent) {
	if !o.json {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	json.NewEncoder(o.w).Encode(e)
}

func (o *outlet) flush() {
	if o.json {
		o.stdout.flush()
		o.stderr.flush()
	}
}

// lineEvents turns a stream into events, one a line; a line without an end is given out after 64 KiB.
type lineEvents struct {
	out  *outlet
	kind string
	buf  []byte
}

// Write never fails: the reader of the events is told of each line, or is gone.
func (l *lineEvents) Write(p []byte) (int, error) {
	const longest = 64 << 10
	l.buf = append(l.buf, p...)
	for {
		i := bytes.IndexByte(l.buf, '\n')
		if i < 0 && len(l.buf) < longest {
			return len(p), nil
		}
		if i < 0 {
			l.flush()
			return len(p), nil
		}
		l.out.event(runEvent{Type: l.kind, Text: string(l.buf[:i])})
		l.buf = l.buf[i+1:]
	}
}

func (l *lineEvents) flush() {
	if len(l.buf) > 0 {
		l.out.event(runEvent{Type: l.kind, Text: string(l.buf)})
		l.buf = nil
	}
}
