package secretd

import (
	"fmt"
	"net"
	"os"
	"strconv"
)

// firstFD is where inherited descriptors begin (sd_listen_fds(3)).
const firstFD = 3

// Inherited returns the admin socket that systemd, or whoever speaks its protocol,
// opened for this process (LISTEN_PID, LISTEN_FDS), or nil when there is none. Only
// one socket is taken.
func Inherited() (net.Listener, error) {
	pid, fds := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	if fds == "" || pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	if fds != "1" {
		return nil, fmt.Errorf("LISTEN_FDS is %q: give one unix socket", fds)
	}
	f := os.NewFile(firstFD, "socket")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("inherited descriptor %d: %w", firstFD, err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("inherited descriptor %d: give a unix socket", firstFD)
	}
	u.SetUnlinkOnClose(false) // its name is its maker's
	return u, nil
}
