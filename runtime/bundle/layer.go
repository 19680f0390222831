package bundle

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The directories of Config.Changes: what the agent has written, and overlayfs's own.
const (
	UpperDir = "upper"
	workDir  = "work"
)

// MakeChanges makes the directory for Config.Changes, to lie over project, in a place where nobody but root enters.
func MakeChanges(dir, project string) error {
	var st unix.Stat_t
	if err := unix.Stat(project, &st); err != nil {
		return fmt.Errorf("make changes over %q: %w", project, err)
	}
	for _, d := range []string{dir, filepath.Join(dir, UpperDir), filepath.Join(dir, workDir)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	// The upper directory's own owner and mode are what the agent sees of /workspace itself.
	upper := filepath.Join(dir, UpperDir)
	if err := os.Chown(upper, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(upper, st.Mode&0o777)
}

// EndChanges removes what overlayfs needed beside the changes themselves.
func EndChanges(dir string) error { return os.RemoveAll(filepath.Join(dir, workDir)) }

// attachLayered mounts the changes over the project with the host's overlayfs and not with gVisor's, whose upper layer
// nobody can read afterwards. The two trees are id-mapped, which an overlay itself cannot be (Linux 5.19). Whatever
// would make the upper directory more than plain files and whiteouts is off.
func (b *Bundle) attachLayered(t *trees) error {
	lower, changes := filepath.Join(b.base, "lower"), filepath.Join(b.base, "changes")
	for at, one := range map[string]tree{lower: t.project, changes: t.changes} {
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		if err := one.attach(at); err != nil {
			return err
		}
	}
	at := filepath.Join(b.mountDir(), "workspace")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	if b.filesBelow(Workspace) {
		lower = b.filesDir(Workspace) + ":" + lower
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=off,metacopy=off,index=off,xino=off",
		lower, filepath.Join(changes, UpperDir), filepath.Join(changes, workDir))
	if err := unix.Mount("superserve", at, "overlay", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount changes over %q: %w", b.cfg.Project, err)
	}
	return nil
}
