package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/runtime/runsc"
)

// A sandbox is three processes of gVisor's, and runsc is the only one that is ours to wait for. When somebody kills one of
// the others, runsc ends with 137, as it does when the agent is killed inside; this file tells them apart.

// runscLog is where runsc says what it met with, in the bundle's own memory.
func (s *Sandbox) runscLog() string { return filepath.Join(s.world.Base(), "runsc.log") }

// blameGVisor finds out whether a run that ended badly did so because a process of gVisor's had died, and returns that.
func (s *Sandbox) blameGVisor(exit runsc.Exit, goferFirst func() bool) (cause Result) {
	gofer := goferFirst()
	if exit.Code <= 128 || exit.Failure != "" {
		return Result{}
	}
	var log []byte
	err := s.world.Do(func() (err error) {
		log, err = os.ReadFile(s.runscLog())
		return err
	})
	if err != nil && s.cfg.Debug == "" {
		s.cfg.Log.Warn("read what runsc said", zap.Error(err))
	}
	switch {
	case runsc.LostSandbox(log):
		return Result{codeFailed, ReasonSandbox, "gVisor's sentry died under the agent: ended by " + syscall.Signal(exit.Code-128).String()}
	case gofer && exit.Code == codeKilled:
		return Result{codeFailed, ReasonSandbox, "gVisor's gofer died under the agent"}
	}
	return Result{}
}

// watchGofer watches for the end of the gofer, upon which gVisor kills the agent and takes that for its end. The function
// that it returns ends the watch and says whether the gofer ended under a sentry that still ran.
func (s *Sandbox) watchGofer() (stop func() bool) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		s.cfg.Log.Warn("watch gofer", zap.Error(err))
		return func() bool { return false }
	}
	first := false
	var watching sync.WaitGroup
	watching.Go(func() {
		defer unix.Close(ends[0])
		g, err := s.awaitGVisor(ends[0])
		if err == nil {
			var end int
			end, err = g.firstEnd(ends[0])
			first = err == nil && end == g.gofer
			if err == nil && end == g.sentry {
				s.proxy.part() // it ends beside runsc, and not after it
			}
			g.close()
		}
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			s.cfg.Log.Warn("watch gofer", zap.Error(err))
		}
	})
	return func() bool {
		unix.Close(ends[1])
		watching.Wait()
		return first
	}
}

// goferPause is how often the gofer is looked for: the container may still be made when it is let go.
const goferPause = 2 * time.Millisecond

// gVisor is the run's gofer and sentry, and an epoll set that tells of their ends.
type gVisor struct{ gofer, sentry, set int }

func (g *gVisor) close() {
	for _, fd := range []int{g.gofer, g.sentry, g.set} {
		unix.Close(fd)
	}
}

// meetGVisor finds them before anybody knows that the run has started and can kill one: who looks later, as one of many
// on a busy machine, may find neither, or both dead.
func (s *Sandbox) meetGVisor() { s.gVisor, s.met = s.findGVisor() }

// awaitGVisor returns what meetGVisor found, or what is there as soon as both are.
func (s *Sandbox) awaitGVisor(stop int) (g *gVisor, err error) {
	for g, err = s.gVisor, s.met; errors.Is(err, os.ErrProcessDone); g, err = s.findGVisor() {
		fds := []unix.PollFd{{Fd: int32(stop), Events: unix.POLLIN}}
		if n, e := unix.Poll(fds, int(goferPause.Milliseconds())); e != nil && e != unix.EINTR || n > 0 {
			return nil, err
		}
	}
	return g, err
}

// findGVisor finds the run's gofer and sentry among what is in its leaf.
func (s *Sandbox) findGVisor() (*gVisor, error) {
	members, err := s.cage.leaf.Members()
	if err != nil {
		return nil, err
	}
	fds := map[string]int{"runsc-gofer": -1, "runsc-sandbox": -1}
	missing := len(fds)
	for _, m := range members {
		name := nameOf(m)
		if fd, ok := fds[name]; !ok || fd >= 0 {
			continue
		}
		if fd, err := unix.PidfdOpen(m.PID, 0); err == nil {
			fds[name] = fd
			missing--
		}
	}
	g := &gVisor{fds["runsc-gofer"], fds["runsc-sandbox"], -1}
	if missing > 0 {
		g.close()
		return nil, fmt.Errorf("find gVisor's processes: %w", os.ErrProcessDone)
	}
	if g.set, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		err = errors.Join(g.tell(g.gofer), g.tell(g.sentry))
	}
	if err != nil {
		g.close()
		return nil, fmt.Errorf("watch gVisor's processes: %w", err)
	}
	return g, nil
}

// nameOf is the first word of a process's command line, by which gVisor tells its processes apart.
func nameOf(m cgroup.Member) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", m.PID))
	if err != nil {
		return ""
	}
	name, _, _ := bytes.Cut(text, []byte{0})
	return string(name)
}

// tell has the set tell of the end of fd.
func (g *gVisor) tell(fd int) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(g.set, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}))
}

// firstEnd waits for the end of a process or for a hang up of the pipe stop, and returns which came first. Unlike poll,
// epoll tells events in the order in which they came, also to whom a busy machine lets look late. In a run that ends by
// itself the gofer goes when the sentry has gone.
func (g *gVisor) firstEnd(stop int) (int, error) {
	if err := g.tell(stop); err != nil {
		return -1, err
	}
	events := make([]unix.EpollEvent, 1)
	for {
		if _, err := unix.EpollWait(g.set, events, -1); err == nil {
			return int(events[0].Fd), nil
		} else if err != unix.EINTR {
			return -1, os.NewSyscallError("epoll_wait", err)
		}
	}
}
