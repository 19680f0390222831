package cgroup

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Start starts cmd as a process that was in the leaf from its first instruction (CLONE_INTO_CGROUP, Linux
// 5.7); there is no moment at which it could make a socket that no hook sees. It sets UseCgroupFD and CgroupFD
// of cmd.SysProcAttr and otherwise is cmd.Start, on the calling goroutine's thread. In a leaf with fewer processors than
// there are, cmd runs on as many.
func (l *Leaf) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD = true
	cmd.SysProcAttr.CgroupFD = int(l.file.Fd())
	if len(l.v1) == 0 {
		return l.startOn(cmd, (*exec.Cmd).Start)
	}
	return l.startOn(cmd, l.startV1)
}

// startV1 starts cmd with the calling thread in the leaf's cgroup1 directories: cgroup1 has no way to name a
// group for a child, a child is where the thread is that forks it.
func (l *Leaf) startV1(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := l.moveThread(l.v1)
	if err == nil {
		err = cmd.Start()
	}
	back := l.moveThread(l.home)
	if back != nil && err == nil {
		// Still in the sandbox's limits, which would bear on the supervisor and keep the leaf from closing.
		err = errors.Join(cmd.Process.Kill(), cmd.Wait())
	}
	return errors.Join(err, back)
}

// moveThread puts the calling thread into one directory of to for each controller of the leaf.
func (l *Leaf) moveThread(to map[string]string) error {
	id := strconv.Itoa(unix.Gettid())
	for controller := range l.v1 {
		if err := writeFile(filepath.Join(to[controller], "tasks"), id); err != nil && controller != l.spare {
			return fmt.Errorf("enter cgroup of %s: %w", controller, err)
		}
	}
	return nil
}
