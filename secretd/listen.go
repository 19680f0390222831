package secretd

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
)

// adminGroup may use the admin socket beside root, when it exists.
const adminGroup = "superserve"

// maxPath is the longest path of a unix socket, in bytes (unix(7)).
const maxPath = 107

// Sockets are the doors of a daemon: the admin socket, the one at api.ResumeSocket that
// only resumes grants, and Remote.Listen's, nil for none.
type Sockets struct {
	Admin, Resume net.Listener
	Remote        net.Listener
	group         int // of the admin socket; -1 for root alone
	remove        []string
}

// Listen binds the sockets that were not inherited, the second beside the first. The
// admin socket has mode 0660 and belongs to root and the group superserve, or to this
// user alone; its directory is made with mode 0750, or must be nobody else's to write.
// No socket is ever reachable under its name before it has its mode, and no link is
// followed. Those that were inherited are closed when Listen fails.
func Listen(socket string, inherited Sockets) (*Sockets, error) {
	s := &inherited
	s.group = groupID()
	if err := s.bindMissing(socket); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Sockets) bindMissing(socket string) error {
	resume := api.ResumeSocket(socket)
	if n := len(resume); n > maxPath {
		return fmt.Errorf("refuse %q: with what is put beside it, it is %d bytes longer than a socket's path may be", socket, n-maxPath)
	}
	if s.Admin != nil && s.Resume != nil {
		return nil // their directories are another's, who may keep this user from writing there
	}
	if err := makeDir(filepath.Dir(socket), 0o750, s.group); err != nil {
		return err
	}
	if err := s.bindOne(&s.Admin, socket, 0o660, s.group); err != nil {
		return err
	}
	if err := makeDir(filepath.Dir(resume), 0o711, -1); err != nil {
		return err
	}
	return s.bindOne(&s.Resume, resume, 0o666, -1)
}

// bindOne makes a socket that was not inherited.
func (s *Sockets) bindOne(l *net.Listener, path string, mode os.FileMode, group int) error {
	if *l != nil {
		return nil
	}
	var err error
	if *l, err = bind(path, mode, group); err != nil {
		return err
	}
	s.remove = append(s.remove, path)
	return nil
}

// Close closes both sockets and removes the names that Listen made.
func (s *Sockets) Close() error {
	var errs []error
	for _, name := range s.remove {
		errs = append(errs, os.Remove(name))
	}
	for _, l := range []net.Listener{s.Admin, s.Resume, s.Remote} {
		if l == nil {
			continue
		}
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// groupID returns the id of the admin group, or -1.
func groupID() int {
	g, err := user.LookupGroup(adminGroup)
	if err != nil {
		return -1
	}
	id, err := strconv.Atoi(g.Gid)
	if err != nil {
		return -1
	}
	return id
}

func makeDir(dir string, mode os.FileMode, group int) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make %q: %w", filepath.Dir(dir), err)
	}
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		return errors.Join(own(dir, group), os.Chmod(dir, mode))
	}
	if !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make %q: %w", dir, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("look at %q: %w", dir, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("refuse %q: it is not a directory", dir)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("refuse %q: it belongs to uid %d, not to %d", dir, st.Uid, os.Geteuid())
	case st.Mode&0o022 != 0:
		return fmt.Errorf("refuse %q: its mode %04o lets others write in it", dir, st.Mode&0o7777)
	case os.FileMode(st.Mode&0o7777) == mode:
		return own(dir, group) // as we would have made it: the command line may have come first
	}
	return nil
}

// own gives a name to the group; without privilege it stays this user's.
func own(name string, group int) error {
	if group < 0 || os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(name, 0, group)
}

// bind makes a socket at path: under another name in a directory that only this
// process can enter, then renamed over whatever stale socket is there.
func bind(path string, mode os.FileMode, group int) (net.Listener, error) {
	if err := free(path); err != nil {
		return nil, err
	}
	temporary := filepath.Join(filepath.Dir(path), ".new-"+rand.Text()[:8])
	if err := os.Mkdir(temporary, 0o700); err != nil {
		return nil, fmt.Errorf("bind %q: %w", path, err)
	}
	defer os.RemoveAll(temporary)
	name := filepath.Join(temporary, "s")
	l, err := listenAt(temporary)
	if err != nil {
		return nil, fmt.Errorf("bind %q: %w", path, err)
	}
	err = errors.Join(own(name, group), os.Chmod(name, mode))
	if err == nil {
		err = os.Rename(name, path)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("bind %q: %w", path, err)
	}
	return l, nil
}

// listenAt binds "s" in dir through a descriptor of it, so that the longer temporary
// name does not count against maxPath.
func listenAt(dir string) (net.Listener, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/s", fd)})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// free refuses a path at which another daemon listens or something else lies.
func free(path string) error {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %q: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("refuse %q: it is not a socket", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("refuse %q: another secretd listens there", path)
	}
	return nil
}
