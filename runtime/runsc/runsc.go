// Package runsc drives gVisor's OCI runtime as a process: start a container and hold it before its first
// instruction, let it go, signal it, start further processes in it, wait, and clean up.
//
// runsc is, by default, the superserve binary itself, started under the name runsc.
package runsc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// minRelease is the oldest gVisor release that Config.Path may name: before it, an idle sandbox burns 25–50 ms of CPU a
// second (google/gvisor#13470), and --gofer-network-namespace does not exist.
const minRelease = "20260601.0"

// Config says which runsc and where it may keep things.
type Config struct {
	Path    string // the binary, absolute; it is started as "runsc"
	State   string // runsc's --root, absolute; one directory a container, in its bundle's mount namespace
	Scratch string // directory for the overlay's upper layer: an unlinked file, gone with the container
	Debug   string // directory for gVisor's debug logs; "" is none. They hold the agent's environment
	Log     string // without Debug: file for what the process that waits for the container says, for LostSandbox; "" is none
	Network string // "host" (of the spec's network namespace) or "none"
}

// Runtime runs containers with one configuration. It is safe for concurrent use.
type Runtime struct{ cfg Config }

// New checks the paths of cfg; it starts nothing.
func New(cfg Config) (*Runtime, error) {
	for _, p := range []string{cfg.Path, cfg.State, cfg.Scratch} {
		if !filepath.IsAbs(p) {
			return nil, fmt.Errorf("use runsc: path %q is not absolute", p)
		}
	}
	if cfg.Network != "host" && cfg.Network != "none" {
		return nil, fmt.Errorf("use runsc: network %q", cfg.Network)
	}
	return &Runtime{cfg}, nil
}

// flags are runsc's own, before the subcommand. Each is a wall or has a reason: the network is the spec's namespace
// itself, for only then do connects become host connects that the cgroup's hooks see; cgroups are the caller's; no
// socket and no pipe of the host may be opened by a path; writes to the root go to a file that has no name; the gofer has
// an empty network namespace of its own, not one that stays mounted for others. --net-raw and --allow-flag-override
// are never given.
func (r *Runtime) flags() []string {
	f := []string{
		"--root=" + r.cfg.State,
		"--network=" + r.cfg.Network,
		"--ignore-cgroups",
		"--host-uds=none",
		"--host-fifo=none",
		"--overlay2=root:dir=" + r.cfg.Scratch,
		"--gofer-network-namespace=new",
		"--host-settings=ignore",
		"--platform=systrap", // --platform=kvm can hang for ever where /dev/kvm is a lie
	}
	switch {
	case r.cfg.Debug != "":
		f = append(f, "--debug", "--debug-log="+r.cfg.Debug+"/", "--panic-log="+r.cfg.Debug+"/panic.log")
	case r.cfg.Log != "":
		f = append(f, "--debug-log="+r.cfg.Log, "--debug-command=run")
	}
	return f
}

// LostSandbox reports whether a Config.Log tells that the sandbox's process was ended by a signal. The exit code alone
// does not: when the sandbox ends without saying how the container did, runsc passes on how the sandbox's process ended,
// and its kill from outside looks like an agent's own. A sandbox whose agent was killed may end before it has said so,
// but then it exits. (runsc/sandbox.Sandbox.Wait, runsc/cli.Run)
func LostSandbox(log []byte) bool {
	_, rest, lost := bytes.Cut(log, []byte("Will try waiting on the sandbox process instead"))
	_, rest, ended := bytes.Cut(rest, []byte("Exiting with status: "))
	number, _, _ := bytes.Cut(rest, []byte("\n"))
	status, err := strconv.Atoi(string(number))
	return lost && ended && err == nil && syscall.WaitStatus(status).Signaled()
}

// command is one runsc invocation, with no environment and in a directory that exists in every namespace.
func (r *Runtime) command(args ...string) *exec.Cmd {
	cmd := exec.Command(r.cfg.Path)
	cmd.Args = append(append([]string{"runsc"}, r.flags()...), args...)
	cmd.Env = []string{}
	cmd.Dir = "/"
	return cmd
}

// Stdio are the agent's standard streams. Nil is /dev/null. gVisor sets O_NONBLOCK on what it is given, so these should
// be pipe ends, a pty or files made for the purpose. The caller closes them when Start has returned.
type Stdio struct{ In, Out, Err *os.File }

// Options describe one start.
type Options struct {
	ID       string // of the container
	Bundle   string // directory with config.json
	Stdio    Stdio
	Terminal bool                  // Stdio.In is a pty's slave end and becomes the controlling terminal
	Hold     string                // path for a fifo that holds the container before its first instruction; "" does not hold
	Start    func(*exec.Cmd) error // starts the process, for instance in a cgroup; nil is cmd.Start

	console bool // runsc itself must be on the terminal: from that alone runsc exec knows that there is one
}

// A Container is one container and the runsc process that waits for it. When that process dies, so does the
// container. Its methods are safe for concurrent use.
type Container struct {
	cmd  *exec.Cmd
	own  *capture
	hold string // path of the fifo, "" if the container is not held
	keys bool   // runsc gets the signals of the terminal's keys
	wait func() (Exit, error)

	mu    sync.Mutex // guards what follows
	fifo  *os.File
	ended bool
}

// Start starts a container. It must run on a thread that outlives the container: the kernel kills a child with a
// parent-death signal when the thread ends that started it.
func (r *Runtime) Start(o Options) (*Container, error) {
	args := []string{"run", "--bundle=" + o.Bundle}
	if o.Hold != "" {
		if err := syscall.Mkfifo(o.Hold, 0o600); err != nil {
			return nil, fmt.Errorf("make fifo %q: %w", o.Hold, err)
		}
		args = append(args, "--pid-file="+o.Hold)
	}
	c := &Container{own: new(capture), hold: o.Hold, keys: o.Terminal}
	c.wait = sync.OnceValues(c.waitOnce)
	if err := c.start(r, o, args, o.ID); err != nil {
		return nil, fmt.Errorf("start runsc: %w", err)
	}
	return c, nil
}

// start completes the command line and starts it.
func (c *Container) start(r *Runtime, o Options, args []string, last ...string) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	var files []*os.File
	for i, f := range []*os.File{o.Stdio.In, o.Stdio.Out, o.Stdio.Err} {
		if f == nil {
			f = null
		}
		files = append(files, f)
		args = append(args, fmt.Sprintf("--pass-fd=%d:%d", firstExtra+i, i))
	}
	c.cmd = r.command(append(args, last...)...)
	// The agent's streams are descriptors of their own, so that runsc's standard error says what runsc has to say and
	// nothing else.
	c.cmd.ExtraFiles = files
	c.cmd.Stderr = c.own
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if o.Terminal {
		// In the terminal's session runsc gets ^C and window changes, and passes them on to the foreground process.
		c.cmd.SysProcAttr.Setctty = true
		c.cmd.SysProcAttr.Ctty = firstExtra
	}
	if o.console {
		c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = o.Stdio.In, o.Stdio.In, o.Stdio.In
	}
	if o.Start == nil {
		return c.cmd.Start()
	}
	return o.Start(c.cmd)
}

// firstExtra is the number of the first of exec.Cmd.ExtraFiles in the child.
const firstExtra = 3

// Release lets a held container run. Until then no instruction of the agent has been executed. It works through the
// pid file, which runsc writes when the container is complete and before it starts it (the OCI lifecycle's "created"):
// opening a fifo for writing blocks until there is a reader. It returns when the container can be signalled and entered,
// or has ended, which Wait says.
func (c *Container) Release() error {
	if c.hold == "" {
		return nil
	}
	// Read and write: such an open never blocks on Linux (fifo(7)), and the reader stays there for a writer yet to come.
	f, err := os.OpenFile(c.hold, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("release container: %w", err)
	}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return f.Close()
	}
	c.fifo = f
	c.mu.Unlock()
	go c.wait()                // it closes the fifo, and so ends the read
	f.Read(make([]byte, 1<<5)) // the number of a process
	return nil
}

// Exit is how a container, or a process in it, ended.
type Exit struct {
	Code    int    // the process's exit code, or 128 + the signal that ended it
	Failure string // what runsc said if it failed itself; Code then says nothing about the process
}

// runscFailure is the exit code of every failure of runsc itself. An agent may end with it too, but then runsc says nothing.
const runscFailure = 128

// Wait waits until the container and its runsc have ended. It may be called again.
func (c *Container) Wait() (Exit, error) { return c.wait() }

func (c *Container) waitOnce() (Exit, error) {
	err := c.cmd.Wait()
	c.mu.Lock()
	c.ended = true
	if c.fifo != nil {
		c.fifo.Close()
	}
	c.mu.Unlock()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Exit{}, fmt.Errorf("wait for runsc: %w", err)
	}
	ws := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() && c.keys && (ws.Signal() == syscall.SIGINT || ws.Signal() == syscall.SIGQUIT) {
		return Exit{Code: 128 + int(ws.Signal())}, nil // the person ended it before runsc could pass signals on
	}
	if ws.Signaled() {
		return Exit{Code: 128 + int(ws.Signal()), Failure: "runsc died under the agent: ended by " + ws.Signal().String()}, nil
	}
	e := Exit{Code: ws.ExitStatus()}
	if e.Code == runscFailure {
		e.Failure = c.own.String()
	}
	return e, nil
}

// Kill ends the container at once, by ending its runsc: the sandbox's processes carry parent-death signals.
func (c *Container) Kill() error { return c.cmd.Process.Kill() }

// SignalCommand is the runsc command that sends sig to the container's first process, and in turn to every process if all
// is set. It has to be started in the bundle's mount namespace, where runsc's state is.
func (r *Runtime) SignalCommand(id string, sig syscall.Signal, all bool) *exec.Cmd {
	args := []string{"kill"}
	if all {
		args = append(args, "--all")
	}
	return r.command(append(args, id, strconv.Itoa(int(sig)))...)
}

// SignalProcessCommand is the same for one process, named by the text of its number inside the container.
func (r *Runtime) SignalProcessCommand(id, pid string, sig syscall.Signal) *exec.Cmd {
	return r.command("kill", "--pid="+pid, id, strconv.Itoa(int(sig)))
}

// Process describes a further process in a running container.
type Process struct {
	ID       string // of the container
	Command  []string
	Env      []string // added to the container's
	Dir      string   // "" is the container's working directory
	Stdio    Stdio
	Terminal bool
	PIDFile  string // gets the process's number inside the container, for SignalProcessCommand; "" is none
}

// Exec starts a further process in a running container, with the container's user and without capabilities. It must be
// called in the bundle's mount namespace, on a thread that outlives the process.
func (r *Runtime) Exec(p Process) (*Container, error) {
	args := []string{"exec"}
	if p.Dir != "" {
		args = append(args, "--cwd="+p.Dir)
	}
	for _, kv := range p.Env {
		args = append(args, "--env="+kv)
	}
	if p.PIDFile != "" {
		args = append(args, "--internal-pid-file="+p.PIDFile)
	}
	c := &Container{own: new(capture)}
	c.wait = sync.OnceValues(c.waitOnce)
	o := Options{Stdio: p.Stdio, Terminal: p.Terminal, console: p.Terminal}
	if err := c.start(r, o, args, append([]string{p.ID}, p.Command...)...); err != nil {
		return nil, fmt.Errorf("start runsc exec: %w", err)
	}
	return c, nil
}

// Version asks the binary for its release and refuses one that is too old. A build without a release number
// ("VERSION_MISSING", from source) is taken.
func (r *Runtime) Version(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, r.cfg.Path, "--version")
	cmd.Args[0] = "runsc"
	cmd.Env = []string{}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("ask %q for its version: %w", r.cfg.Path, err)
	}
	return parseVersion(r.cfg.Path, out)
}

func parseVersion(path string, out []byte) (string, error) {
	line, _, _ := bytes.Cut(out, []byte("\n"))
	v, ok := strings.CutPrefix(string(line), "runsc version ")
	if !ok {
		return "", fmt.Errorf("ask %q for its version: not runsc", path)
	}
	if rel, ok := strings.CutPrefix(v, "release-"); ok && rel < minRelease {
		return v, fmt.Errorf("%q is gVisor %s: at least release-%s is needed", path, v, minRelease)
	}
	return v, nil
}

// capture keeps the first bytes that runsc writes about itself.
type capture struct{ buf bytes.Buffer }

const maxCapture = 16 << 10

func (c *capture) Write(p []byte) (int, error) {
	if room := maxCapture - c.buf.Len(); room > 0 {
		c.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (c *capture) String() string { return strings.TrimSpace(c.buf.String()) }
