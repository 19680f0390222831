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
		gofer, sentry, err := s.awaitGofer(ends[0])
		if err == nil {
			var end int
			end, err = firstEnd(gofer, sentry, ends[0])
			first = err == nil && end == gofer
			if err == nil && end == sentry {
				s.proxy.part() // it ends beside runsc, and not after it
			}
			unix.Close(gofer)
			unix.Close(sentry)
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

// awaitGofer returns descriptors of the run's gofer and sentry as soon as there are both.
func (s *Sandbox) awaitGofer(stop int) (gofer, sentry int, err error) {
	for {
		gofer, sentry, err = s.findGofer()
		if !errors.Is(err, os.ErrProcessDone) {
			return gofer, sentry, err
		}
		fds := []unix.PollFd{{Fd: int32(stop), Events: unix.POLLIN}}
		if n, e := unix.Poll(fds, int(goferPause.Milliseconds())); e != nil && e != unix.EINTR || n > 0 {
			return -1, -1, err
		}
	}
}

// findGofer finds the run's gofer and sentry among what is in its leaf.
func (s *Sandbox) findGofer() (gofer, sentry int, err error) {
	members, err := s.cage.leaf.Members()
	if err != nil {
		return -1, -1, err
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
	if missing == 0 {
		return fds["runsc-gofer"], fds["runsc-sandbox"], nil
	}
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	return -1, -1, fmt.Errorf("find gVisor's processes: %w", os.ErrProcessDone)
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

// firstEnd waits until one of fds tells of an end, a process's or a hung up pipe's, and returns it. Unlike poll, epoll tells
// events in the order in which they came, also to whom a busy machine lets look late. In a run that ends by itself the
// gofer goes when the sentry has gone.
func firstEnd(fds ...int) (int, error) {
	set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("epoll_create1", err)
	}
	defer unix.Close(set)
	for _, fd := range fds {
		if err := unix.EpollCtl(set, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return -1, os.NewSyscallError("epoll_ctl", err)
		}
	}
	events := make([]unix.EpollEvent, 1)
	for {
		if _, err := unix.EpollWait(set, events, -1); err == nil {
			return int(events[0].Fd), nil
		} else if err != unix.EINTR {
			return -1, os.NewSyscallError("epoll_wait", err)
		}
	}
}
