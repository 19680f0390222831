package bundle

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Why a command cannot be started; a shell ends with 127 and 126.
var (
	ErrNotFound      = errors.New("command not found")
	ErrNotExecutable = errors.New("permission denied")
)

// checkCommand looks for the command as the sandbox will, so that a misspelt one costs no sandbox. What lies on a shared
// mount is not looked at: nil.
func (b *Bundle) checkCommand() error {
	if len(b.proc.Command) == 0 || b.proc.Command[0] == "" {
		return fmt.Errorf("empty command: %w", ErrNotFound)
	}
	name := b.proc.Command[0]
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join(b.cwd(), name)
		}
		return b.wrapCommand(b.executable(name))
	}
	found := fmt.Errorf("%w", ErrNotFound)
	for _, dir := range strings.Split(b.path(), ":") {
		err := b.executable(path.Join(dir, name))
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrNotExecutable) {
			found = err
		}
	}
	return b.wrapCommand(found)
}

func (b *Bundle) wrapCommand(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%q: %w", b.proc.Command[0], err)
}

func (b *Bundle) path() string {
	for _, kv := range b.environment() {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			return v
		}
	}
	return ""
}

// executable judges one path of the sandbox. It is a courtesy, not a check: the sentry decides.
func (b *Bundle) executable(name string) error {
	if b.unseen(name) {
		return nil
	}
	st, err := b.stat(name)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return ErrNotFound
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return ErrNotExecutable
	}
	bit := uint32(0o001)
	switch {
	case st.Uid == b.cfg.IDs.Host(AgentUID):
		bit = 0o100
	case st.Gid == b.cfg.IDs.Host(AgentGID):
		bit = 0o010
	}
	if st.Mode&bit == 0 {
		return ErrNotExecutable
	}
	return nil
}

// unseen reports whether a path lies where only the sentry can look: on a mount beside the root or a made-up file system.
func (b *Bundle) unseen(name string) bool {
	for _, m := range b.mounts() {
		if name == m.Destination || strings.HasPrefix(name, m.Destination+"/") {
			return true
		}
	}
	return false
}
