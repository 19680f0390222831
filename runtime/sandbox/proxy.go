package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/runtime/thread"
)

// readyTimeout bounds the start of the proxy on a very busy host, and partTimeout its end. A proxy that dies is noticed
// at once, so only one that hangs takes all of it. Ten seconds were too few for an emulated machine that had nine times
// as much to do as processors (2026-11-23).
const (
	readyTimeout = 30 * time.Second
	partTimeout  = 2 * time.Second
)

// proxyProcess is the run's proxy: its own uid, no capability, no environment, everything by descriptor.
type proxyProcess struct {
	cmd   *exec.Cmd
	ready *net.UnixConn // our end
	lines *readyReader
	said  *bounded
	ca    []byte
	done  chan struct{} // closed when it has been waited for
	once  sync.Once
	told  atomic.Bool // that it is to end

	startIn, endIn time.Duration // readyTimeout and partTimeout, but in tests
}

// startProxy starts the proxy. The files in fds are duplicated into it, and the fields of h.FDs that they are keyed by are
// set to their numbers there; the caller keeps its own. start starts the process, on a thread of its own.
func startProxy(binary *os.File, uid uint32, h *Handoff, fds map[*int]*os.File, start func(*exec.Cmd) error) (*proxyProcess, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	end, theirs := os.NewFile(uintptr(pair[0]), "ready"), os.NewFile(uintptr(pair[1]), "ready")
	defer theirs.Close()
	conn, err := net.FileConn(end)
	end.Close()
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	ours := conn.(*net.UnixConn)
	p := &proxyProcess{ready: ours, lines: newReadyReader(ours), said: new(bounded), done: make(chan struct{}), startIn: readyTimeout, endIn: partTimeout}
	fds[&h.FDs.Ready] = theirs
	extra := []*os.File{nil} // HandoffFD
	for number, f := range fds {
		if f != nil {
			*number = HandoffFD + len(extra)
			extra = append(extra, f)
		}
	}
	if extra[0], err = h.file(); err != nil {
		ours.Close()
		return nil, err
	}
	defer extra[0].Close()
	if err := p.start(binary, uid, extra, start); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	return p, nil
}

// start forks on a thread that is used for nothing else afterwards: no_new_privs is a thread's and cannot be undone, and
// the parent-death signal comes when the thread ends, so it has to last as long as the proxy.
func (p *proxyProcess) start(binary *os.File, uid uint32, extra []*os.File, start func(*exec.Cmd) error) error {
	// By descriptor: the proxy's uid may have no way to the binary's path. High, out of the way of extra.
	fd, err := unix.FcntlInt(binary.Fd(), unix.F_DUPFD_CLOEXEC, 512)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	p.cmd = exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd))
	p.cmd.Args = []string{"superserve", "proxy"}
	p.cmd.Env = []string{}
	p.cmd.Dir = "/"
	p.cmd.Stderr = p.said
	p.cmd.ExtraFiles = extra
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{}},
		Setsid:     true,
		Pdeathsig:  syscall.SIGKILL,
	}
	started := make(chan error)
	thread.Go(func() {
		defer close(p.done)
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			err = start(p.cmd)
		}
		started <- err
		if err == nil {
			p.cmd.Wait()
		}
	})
	return <-started
}

// awaitReady waits until the proxy has confined itself and sets ca, its certificate in DER. It accepts nothing before
// it is told to serve.
func (p *proxyProcess) awaitReady() error {
	p.ready.SetReadDeadline(time.Now().Add(p.startIn))
	defer p.ready.SetReadDeadline(time.Time{})
	ca, err := p.lines.ca()
	if err != nil {
		return p.startError(err)
	}
	p.ca = ca
	return nil
}

// serve hands the listeners over to the proxy and returns when it has begun to accept.
func (p *proxyProcess) serve() error {
	deadline := time.Now().Add(p.startIn)
	if err := p.order(Order{Number: serveOrder, Serve: true}, deadline); err != nil {
		return p.startError(err)
	}
	p.ready.SetReadDeadline(deadline)
	defer p.ready.SetReadDeadline(time.Time{})
	answer, err := p.lines.notice()
	switch {
	case err != nil:
		return p.startError(err)
	case answer.Order != serveOrder:
		return errors.New("start proxy: it answered what it was not asked")
	case answer.Text != "":
		return fmt.Errorf("start proxy: %s", answer.Text)
	}
	return nil
}

// startError says why the proxy did not start. One that is dead has said it itself.
func (p *proxyProcess) startError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		<-p.done
		return fmt.Errorf("start proxy: it ended: %s", orUnknown(p.said.String()))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("start proxy: it was not ready after %v", p.startIn)
	}
	return fmt.Errorf("start proxy: %w", err)
}

// order writes o on Ready. Orders must not be written at once.
func (p *proxyProcess) order(o Order, deadline time.Time) error {
	line, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if len(line) >= maxOrder {
		return fmt.Errorf("%d bytes, the limit is %d", len(line), maxOrder)
	}
	p.ready.SetWriteDeadline(deadline)
	_, err = p.ready.Write(append(line, '\n'))
	return err
}

// follow passes notices on until the proxy is dead, or talks nonsense, which comes to the same.
func (p *proxyProcess) follow(notice func(Notice)) {
	for {
		n, err := p.lines.notice()
		if err != nil {
			return
		}
		notice(n)
	}
}

// part asks the proxy to end, by EOF on Ready, which lets it finish its last audit lines.
func (p *proxyProcess) part() {
	p.told.Store(true)
	p.ready.CloseWrite()
}

// close ends the proxy and waits for that.
func (p *proxyProcess) close() {
	p.once.Do(func() {
		p.part()
		select {
		case <-p.done:
		case <-time.After(p.endIn):
			p.cmd.Process.Kill()
			<-p.done
		}
		p.ready.Close()
	})
}

// bounded keeps the first bytes written to it. It is safe for concurrent use.
type bounded struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxSaid = 16 << 10

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if room := maxSaid - b.buf.Len(); room > 0 {
		b.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (b *bounded) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.TrimSpace(b.buf.String())
}

func orUnknown(s string) string {
	if s == "" {
		return "no reason given"
	}
	return s
}
