// Package bpftest makes throw-away places to try the egress programs in: a cgroup2 leaf and a network namespace
// that has lo, up, and nothing else, not even a route. It stands alone, so that what it shows about the programs
// does not hang on the code that sandboxes use.
package bpftest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Cage is a leaf and a namespace. It ends with its test, which fails when something is left in it.
type Cage struct {
	Cgroup *os.File // directory descriptor of the leaf

	t     testing.TB
	netns *os.File
}

var made atomic.Int64

// New makes a cage. Without root or cgroup2 it skips the test, or fails it where CI=true.
func New(t testing.TB) *Cage {
	t.Helper()
	c := &Cage{t: t}
	c.makeLeaf()
	c.makeNamespace()
	return c
}

// In makes a cage in a network namespace that the caller has made. The descriptor stays the caller's.
func In(t testing.TB, namespace *os.File) *Cage {
	t.Helper()
	c := &Cage{t: t, netns: namespace}
	c.makeLeaf()
	return c
}

func (c *Cage) makeLeaf() {
	t := c.t
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "needs root")
	}
	root := mountPoint(t)
	dir := filepath.Join(root, fmt.Sprintf("bpftest-%d-%d", os.Getpid(), made.Add(1)))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, dir) })
	var err error
	if c.Cgroup, err = os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Cgroup.Close() })
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// mountPoint is where cgroup2 is: not always /sys/fs/cgroup.
func mountPoint(t testing.TB) string {
	t.Helper()
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			return fields[4]
		}
	}
	missing(t, "needs cgroup2")
	return ""
}

// makeNamespace makes the namespace on a thread that ends with it.
func (c *Cage) makeNamespace() {
	c.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- errors.Join(unix.Unshare(unix.CLONE_NEWNET), raiseLo(), c.keepNamespace())
	}()
	if err := <-done; err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { c.netns.Close() })
}

func (c *Cage) keepNamespace() (err error) {
	c.netns, err = os.Open("/proc/thread-self/ns/net")
	return err
}

func raiseLo() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

// Do runs f in the namespace, on a thread that ends with it, and returns what f returned.
func (c *Cage) Do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		err := unix.Setns(int(c.netns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// Listen opens a TCP listener in the namespace and closes it with the test.
func (c *Cage) Listen(address string) net.Listener {
	c.t.Helper()
	var l net.Listener
	err := c.Do(func() (err error) {
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		l, err = config.Listen(context.Background(), "tcp", address)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket opens a UDP socket in the namespace and closes it with the test.
func (c *Cage) ListenPacket(address string) *net.UDPConn {
	c.t.Helper()
	var conn net.PacketConn
	err := c.Do(func() (err error) {
		var config net.ListenConfig
		conn, err = config.ListenPacket(context.Background(), "udp", address)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn.(*net.UDPConn)
}

// Start starts cmd in the namespace, and in the leaf if inLeaf.
func (c *Cage) Start(cmd *exec.Cmd, inLeaf bool) error {
	if inLeaf {
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(c.Cgroup.Fd())
	}
	return c.Do(cmd.Start)
}

// remove ends what is in the leaf and removes it.
func remove(t testing.TB, dir string) {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
		t.Error(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		err := unix.Rmdir(dir)
		if err == nil {
			return
		}
		if err != unix.EBUSY || time.Now().After(deadline) {
			t.Errorf("remove %s: %v", dir, err)
			return
		}
		runtime.Gosched() // a killed process is on its way out
	}
}
