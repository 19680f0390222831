package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"sync"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/superserve/superserve/runtime/runsc"
)

// streams carry the agent's standard streams over pipes or a pty of ours. The caller's own files are never handed to
// gVisor: it would make them non-blocking for every process that shares them, the user's shell among them.
type streams struct {
	inside  runsc.Stdio // for the agent; closed by started
	master  *os.File    // of the pty, if there is one
	outputs sync.WaitGroup
	stop    []func() // ends what else runs
	logs    []*os.File
}

// newStreams makes the ends and starts to copy. out and err also get copies of the output; they may be nil.
func newStreams(cfg *Config, out, err io.Writer) (*streams, error) {
	s := new(streams)
	if cfg.Terminal != nil {
		if e := s.terminal(cfg, out); e != nil {
			s.close()
			return nil, fmt.Errorf("make terminal: %w", e)
		}
		return s, nil
	}
	if e := s.pipes(cfg, out, err); e != nil {
		s.close()
		return nil, fmt.Errorf("make pipes: %w", e)
	}
	return s, nil
}

func (s *streams) pipes(cfg *Config, out, errs io.Writer) (err error) {
	stdout, stderr := cfg.Stdout, cfg.Stderr
	one := same(stdout, stderr)
	if one {
		// As in os/exec, a writer that is given twice is not written to from two goroutines.
		stdout = &locked{w: stdout}
		stderr = stdout
	}
	if s.inside.Out, err = s.output(tee(stdout, out)); err != nil {
		return err
	}
	if one && out == nil {
		s.inside.Err = s.inside.Out // one pipe also keeps the order
	} else if s.inside.Err, err = s.output(tee(stderr, errs)); err != nil {
		return err
	}
	if cfg.Stdin == nil {
		return nil // runsc gives the agent /dev/null
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	s.inside.In = r
	return s.input(w, cfg.Stdin, true)
}

// output returns the end that the agent writes to.
func (s *streams) output(to io.Writer) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.outputs.Go(func() {
		defer r.Close() // when the caller takes no more, the agent gets EPIPE
		io.Copy(to, r)
	})
	return w, nil
}

// input copies from in to w until the run ends. A Read that then hangs in a reader other than a file outlives the run:
// there is no way to end it.
func (s *streams) input(w *os.File, in io.Reader, closeAtEnd bool) error {
	end, done := func() {}, make(chan struct{})
	if file, ok := in.(*os.File); ok {
		wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			w.Close()
			return err
		}
		in = pollReader{file, wake}
		end = func() {
			unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
			<-done
			unix.Close(wake)
		}
	}
	go func() {
		io.Copy(w, in)
		if closeAtEnd {
			w.Close()
		}
		close(done)
	}()
	s.stop = append(s.stop, end, func() {
		if closeAtEnd {
			w.Close()
		}
	})
	return nil
}

// pollReader reads from a file until there is something to read at wake. It never takes from the file what it does not
// return, so that the next program in the user's shell finds the input that the agent has left.
type pollReader struct {
	f    *os.File
	wake int
}

func (p pollReader) Read(b []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(p.f.Fd()), Events: unix.POLLIN}, {Fd: int32(p.wake), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, err
		case fds[1].Revents != 0:
			return 0, io.EOF
		}
		return p.f.Read(b)
	}
}

// terminal makes the pty. Its two directions are Config.Stdin and Stdout, or both Terminal.File.
func (s *streams) terminal(cfg *Config, log io.Writer) error {
	t := cfg.Terminal
	in, out := cfg.Stdin, cfg.Stdout
	rows, cols := t.Rows, t.Cols
	if t.File != nil {
		if in == nil {
			in = t.File
		}
		if out == nil {
			out = t.File
		}
		if size, err := pty.GetsizeFull(t.File); err == nil && rows == 0 && cols == 0 {
			rows, cols = size.Rows, size.Cols
		}
	}
	if rows == 0 || cols == 0 {
		rows, cols = 24, 80
	}
	master, slave, err := pty.Open()
	if err != nil {
		return err
	}
	s.master = master
	s.inside = runsc.Stdio{In: slave, Out: slave, Err: slave}
	if err := s.resize(rows, cols); err != nil {
		return err
	}
	if t.File != nil {
		if err := s.takeTerminal(t.File); err != nil {
			return err
		}
	}
	to := tee(out, log)
	s.outputs.Go(func() { io.Copy(to, master) }) // until EIO: the last slave is closed
	if in == nil {
		return nil
	}
	return s.input(master, in, false)
}

// takeTerminal puts the user's terminal into raw mode, so that ^C and all else reach the agent's, and follows its size.
func (s *streams) takeTerminal(f *os.File) error {
	fd := int(f.Fd())
	if !term.IsTerminal(fd) {
		return nil
	}
	state, err := term.MakeRaw(fd)
	if err != nil {
		return err
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range changed {
			if size, err := pty.GetsizeFull(f); err == nil {
				s.resize(size.Rows, size.Cols)
			}
		}
	}()
	s.stop = append(s.stop, func() {
		signal.Stop(changed)
		close(changed)
		<-done
		term.Restore(fd, state)
	})
	return nil
}

func (s *streams) resize(rows, cols uint16) error {
	if s.master == nil {
		return errors.New("resize: no terminal")
	}
	return pty.Setsize(s.master, &pty.Winsize{Rows: rows, Cols: cols})
}

// started closes the agent's ends here, once gVisor has them.
func (s *streams) started() {
	closeFiles([]*os.File{s.inside.In, s.inside.Out, s.inside.Err})
	s.inside = runsc.Stdio{}
}

// close waits until all output has been passed on, and ends the rest. The agent must be gone.
func (s *streams) close() {
	s.started()
	s.outputs.Wait()
	for _, f := range s.stop {
		f()
	}
	if s.master != nil {
		s.master.Close()
	}
	closeFiles(s.logs)
}

// tee writes to both; either may be nil. A copy that cannot be written must not end the output itself.
func tee(to, copy io.Writer) io.Writer {
	switch {
	case to == nil && copy == nil:
		return io.Discard
	case to == nil:
		return copy
	case copy == nil:
		return to
	}
	return io.MultiWriter(to, lenient{copy})
}

// same reports whether both are the same writer.
func same(a, b io.Writer) bool {
	return a != nil && b != nil && reflect.TypeOf(a).Comparable() && reflect.TypeOf(b).Comparable() && a == b
}

// locked is a writer for several goroutines.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// lenient hides the errors of a writer.
type lenient struct{ io.Writer }

func (l lenient) Write(p []byte) (int, error) {
	l.Writer.Write(p)
	return len(p), nil
}
