package sandbox

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/superserve/superserve/runtime/runsc"
)

// terminal makes the pty. Its two directions are Config.Stdin and Stdout, or both Terminal.File.
func (s *streams) terminal(cfg *Config, log io.Writer) error {
	t := cfg.Terminal
	in, out := cfg.Stdin, cfg.Stdout
	if t.File != nil && in == nil {
		in = t.File
	}
	if t.File != nil && out == nil {
		out = t.File
	}
	master, slave, err := pty.Open()
	if err != nil {
		return err
	}
	s.master = master
	s.inside = runsc.Stdio{In: slave, Out: slave, Err: slave}
	if err := pty.Setsize(master, t.size()); err != nil {
		return err
	}
	s.modes = &modes{to: tee(out, log)}
	if t.File != nil && term.IsTerminal(int(t.File.Fd())) {
		if err := s.takeTerminal(t.File, slave); err != nil {
			return err
		}
	}
	s.outputs.Go(func() { io.Copy(shown{s.modes, &s.showing}, master) }) // until EIO: the last slave is closed
	if in == nil {
		return nil
	}
	return s.input(master, in, false)
}

// size is the terminal's first size.
func (t *Terminal) size() *pty.Winsize {
	size := &pty.Winsize{Rows: t.Rows, Cols: t.Cols}
	if t.File != nil && t.Rows == 0 && t.Cols == 0 {
		if own, err := pty.GetsizeFull(t.File); err == nil {
			size = own
		}
	}
	if size.Rows == 0 || size.Cols == 0 {
		return &pty.Winsize{Rows: 24, Cols: 80}
	}
	return size
}

// raw reports whether a program on the pty draws the screen itself, so that nobody else may write to it: it takes each
// key as it is typed, or has gone to the alternate screen. It reports false without a pty.
func (s *streams) raw() bool {
	if s.master == nil {
		return false
	}
	t, err := unix.IoctlGetTermios(int(s.master.Fd()), unix.TCGETS) // of a pty's master they are the slave's
	return err != nil || t.Lflag&unix.ICANON == 0 || s.modes.alternate()
}

func (s *streams) resize(rows, cols uint16) error {
	if s.master == nil {
		return errors.New("resize: no terminal")
	}
	return pty.Setsize(s.master, &pty.Winsize{Rows: rows, Cols: cols})
}

// job is how the process on the terminal is suspended and continued, as a shell would do.
type job struct {
	stopped func() bool // asks whether it is
	carryOn func()      // continues it and its process group
}

// screen is the user's own terminal while the agent has it: raw, so that ^C and all else reach the agent's.
type screen struct {
	file    *os.File
	master  *os.File
	typed   chan struct{} // a key that suspends was typed
	signals chan os.Signal
	job     atomic.Pointer[job]
	done    chan struct{}
	over    sync.WaitGroup

	mu    sync.Mutex  // guards what follows, and is held while suspended
	state *term.State // as it was before
}

// takeTerminal puts the user's terminal into raw mode, gives its settings to the agent's, and follows its size and its
// shell's job control.
func (s *streams) takeTerminal(f, slave *os.File) error {
	fd := int(f.Fd())
	if t, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
		unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, t) // the user's own keys, UTF-8 or not
	}
	sc := &screen{file: f, master: s.master, typed: make(chan struct{}, 1), signals: make(chan os.Signal, 4), done: make(chan struct{})}
	var err error
	if sc.state, err = term.MakeRaw(fd); err != nil {
		return err
	}
	s.screen = sc
	// Not SIGTSTP: when nobody is notified any more, Go does not give it its default action back (1.26), and suspend needs
	// that. No key of a raw terminal sends it.
	signal.Notify(sc.signals, unix.SIGWINCH, unix.SIGCONT)
	sc.over.Go(sc.followSignals)
	sc.over.Go(sc.followKeys)
	s.stop = append(s.stop, func() {
		signal.Stop(sc.signals)
		close(sc.done)
		sc.over.Wait()
		io.WriteString(f, s.modes.undo())
		term.Restore(fd, sc.state)
	})
	return nil
}

// control lets the user's shell suspend the agent.
func (s *streams) control(j *job) {
	if s.screen != nil {
		s.screen.job.Store(j)
	}
}

// followSignals keeps to what the terminal and the user's shell say.
func (sc *screen) followSignals() {
	for {
		select {
		case <-sc.done:
			return
		case sig := <-sc.signals:
			if sig == unix.SIGCONT { // after a stop that nobody saw coming the shell has set the terminal
				sc.retake()
			}
			sc.resize()
		}
	}
}

func (sc *screen) resize() {
	if size, err := pty.GetsizeFull(sc.file); err == nil {
		pty.Setsize(sc.master, size)
	}
}

// retake makes the terminal raw again, unless it is just given away.
func (sc *screen) retake() {
	if sc.mu.TryLock() {
		defer sc.mu.Unlock()
		term.MakeRaw(int(sc.file.Fd()))
	}
}

// suspendLooks are the pauses after a key that suspends before each look at the agent: it may first put its screen in
// order. A look is a process in the sandbox, some 20 ms.
var suspendLooks = [...]time.Duration{60 * time.Millisecond, 200 * time.Millisecond, 600 * time.Millisecond, 1500 * time.Millisecond}

// followKeys suspends this process, whose terminal it is, when the agent has suspended itself, so that the user is back
// in their shell. In gVisor even a first process stops, and nothing in the sandbox would ever wake it.
func (sc *screen) followKeys() {
	for {
		select {
		case <-sc.done:
			return
		case <-sc.typed:
		}
		if j := sc.job.Load(); j != nil && sc.awaitStop(j) {
			sc.suspend()
			j.carryOn()
		}
	}
}

// awaitStop looks whether the agent stops now.
func (sc *screen) awaitStop(j *job) bool {
	for _, pause := range suspendLooks {
		select {
		case <-sc.done:
			return false
		case <-time.After(pause):
		}
		if j.stopped() {
			return true
		}
	}
	return false
}

// stopTime is how long a stop by signal may take to come.
const stopTime = 300 * time.Millisecond

// suspend gives the terminal back and stops this process's group, as the key would have done, until the shell continues
// it. In a group that no shell looks after the kernel stops nobody (POSIX.1-2017 2.4.3), and it returns soon. While this
// process is stopped the proxy goes on, by the rules that it has; only a cage that root opens is not noticed.
func (sc *screen) suspend() {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	term.Restore(int(sc.file.Fd()), sc.state)
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, unix.SIGCONT)
	defer signal.Stop(continued)
	unix.Kill(0, unix.SIGTSTP)
	select {
	case <-continued:
	case <-time.After(stopTime):
	}
	// In the background this stops once more, until the shell brings it to the front (SIGTTOU).
	if state, err := term.MakeRaw(int(sc.file.Fd())); err == nil {
		sc.state = state
	}
	sc.resize()
}

// keyboard reads what the user types, and tells of the keys that suspend a job.
type keyboard struct {
	io.Reader
	typed chan<- struct{}
}

// suspendKeys are ^Z as a terminal sends it, plainly, in the kitty protocol and as xterm's modifyOtherKeys.
var suspendKeys = [...]string{"\x1a", "\x1b[122;5", "\x1b[27;5;122~"}

// errHangUp means that the user's terminal is gone: a window was closed, a line was cut. The agent's is then hung up too.
var errHangUp = errors.New("the terminal is gone")

// Read passes on what was typed. A raw terminal has no end but errHangUp.
func (k *keyboard) Read(p []byte) (int, error) {
	n, err := k.Reader.Read(p)
	if n == 0 && err != nil && !errors.Is(err, errWoken) {
		return 0, errHangUp
	}
	for _, key := range suspendKeys {
		if bytes.Contains(p[:n], []byte(key)) {
			select {
			case k.typed <- struct{}{}:
			default:
			}
		}
	}
	return n, err
}
