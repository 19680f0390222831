package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/runtime/runsc"
)

// streams carry the agent's standard streams over pipes or a pty of ours. The caller's own files are never handed to
// gVisor: it would make them non-blocking for every process that shares them, the user's shell among them.
type streams struct {
	inside  runsc.Stdio // for the agent; closed by started
	master  *os.File    // of the pty, if there is one
	modes   *modes      // what the agent has switched on with it
	screen  *screen     // the user's own terminal, if the agent has it
	outputs sync.WaitGroup
	stop    []func() // ends what else runs
	logs    []*os.File
	typing  sync.RWMutex // held by Sandbox.HoldTerminal: nobody else reads
	showing sync.RWMutex // and nobody else writes
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
		io.Copy(shown{to, &s.showing}, r)
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
		in = pollReader{file, wake, &s.typing}
		end = func() {
			unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
			<-done
			unix.Close(wake)
		}
	}
	if s.screen != nil {
		in = &keyboard{in, s.screen.typed}
	}
	go func() {
		if _, err := io.Copy(w, in); closeAtEnd || errors.Is(err, errHangUp) {
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
	busy *sync.RWMutex // held while somebody else reads what is typed
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
			return 0, errWoken
		}
		if n, err, ok := p.read(b); ok {
			return n, err
		}
	}
}

// read reads what is there. It is not ok when that has been taken by who held the input.
func (p pollReader) read(b []byte) (n int, err error, ok bool) {
	p.busy.RLock()
	defer p.busy.RUnlock()
	fds := []unix.PollFd{{Fd: int32(p.f.Fd()), Events: unix.POLLIN}}
	if ready, err := unix.Poll(fds, 0); err == nil && ready == 0 {
		return 0, nil, false
	}
	n, err = p.f.Read(b)
	return n, err, true
}

// errWoken ends the reading of a pollReader.
var errWoken = errors.New("woken")

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

// shown is where the agent's output goes, while nobody holds the terminal.
type shown struct {
	w    io.Writer
	busy *sync.RWMutex
}

func (s shown) Write(p []byte) (int, error) {
	s.busy.RLock()
	defer s.busy.RUnlock()
	return s.w.Write(p)
}

// lenient hides the errors of a writer.
type lenient struct{ io.Writer }

func (l lenient) Write(p []byte) (int, error) {
	l.Writer.Write(p)
	return len(p), nil
}
