// Package thread gives a function an OS thread of its own: for what Linux keeps by thread and Go must not spread, such as
// a mount namespace, no_new_privs, or being the one whose end the children are told of.
package thread

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Go starts f on a goroutine whose thread runs nothing else and ends with f. It is never the process's first thread: that
// one cannot end before the process does, and /proc/self is about it.
func Go(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			f() // the thread stays locked, so the Go runtime ends it with this goroutine
			return
		}
		// Held here, the first thread cannot be the next goroutine's.
		started := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(started)
			f()
		}()
		<-started
		runtime.UnlockOSThread()
	}()
}
