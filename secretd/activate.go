package secretd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// firstFD is where inherited descriptors begin (sd_listen_fds(3)).
const firstFD = 3

// The names under which a service manager hands over the two sockets (LISTEN_FDNAMES).
const (
	adminName  = "admin"
	resumeName = "resume"
)

// Inherited returns the sockets that systemd, or whoever speaks its protocol, opened
// for this process (LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES): the admin socket, which
// one without a name is, and the one named "resume". Those that were not handed over
// are nil, and Listen makes them.
func Inherited() (Sockets, error) {
	pid, fds := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	if fds == "" || pid != strconv.Itoa(os.Getpid()) {
		return Sockets{}, nil
	}
	n, err := strconv.Atoi(fds)
	if err != nil || n < 1 || n > 2 {
		return Sockets{}, fmt.Errorf("LISTEN_FDS is %q: give a unix socket, or two named %s and %s", fds, adminName, resumeName)
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if len(names) != n {
		names = []string{adminName, ""}[:n] // one without a name; two need them
	}
	var s Sockets
	for i, name := range names {
		if err := s.inherit(firstFD+i, name, n); err != nil {
			return Sockets{}, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// inherit takes descriptor fd, one of n, to be what its name says.
func (s *Sockets) inherit(fd int, name string, n int) error {
	l, err := inheritedSocket(fd)
	if err != nil {
		return fmt.Errorf("inherited descriptor %d: %w", fd, err)
	}
	switch {
	case name == resumeName && s.Resume == nil:
		s.Resume = l
	case (name == adminName || n == 1) && s.Admin == nil:
		s.Admin = l
	default:
		l.Close()
		return fmt.Errorf("inherited descriptor %d is named %q: name one %s and the other %s (FileDescriptorName=)", fd, name, adminName, resumeName)
	}
	return nil
}

func inheritedSocket(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "socket")
	if f == nil {
		return nil, os.ErrInvalid
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("give a unix socket")
	}
	u.SetUnlinkOnClose(false) // its name is its maker's
	return u, nil
}
