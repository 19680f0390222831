package bundle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// A tree is a detached copy of a mount: of the project, of a shared directory, of the host's /usr.
type tree struct {
	f   *os.File
	dir bool
}

// trees are the detached copies that a bundle is put together from.
type trees struct {
	usr     map[string]tree // by path on the host
	project tree
	changes tree
	home    tree
	mounts  []tree // in the order of Config.Mounts
}

func (t *trees) close() {
	if t == nil {
		return
	}
	all := append([]tree{t.project, t.changes, t.home}, t.mounts...)
	for _, u := range t.usr {
		all = append(all, u)
	}
	for _, one := range all {
		if one.f != nil {
			one.f.Close()
		}
	}
}

// openTrees copies what the configuration takes from the host. On an error it returns what is open so far.
func (b *Bundle) openTrees() (*trees, error) {
	t := &trees{usr: make(map[string]tree)}
	if err := b.openTools(t); err != nil {
		return t, err
	}
	var err error
	if b.cfg.Project != "" {
		if err = b.openProject(t); err != nil {
			return t, fmt.Errorf("open project %q: %w", b.cfg.Project, err)
		}
	}
	if b.cfg.Home != "" {
		if t.home, err = b.openOwned(b.cfg.Home, true, b.cfg.Owner); err != nil {
			return t, fmt.Errorf("open home %q: %w", b.cfg.Home, err)
		}
	}
	for _, m := range b.cfg.Mounts {
		one, err := b.openOwned(m.Source, !m.ReadOnly, nil)
		if err != nil {
			return t, fmt.Errorf("open mount %q: %w", m.Source, err)
		}
		t.mounts = append(t.mounts, one)
	}
	return t, nil
}

// openProject copies the project and, where its changes are kept apart, the directory for those.
func (b *Bundle) openProject(t *trees) (err error) {
	switch {
	case !b.cfg.Shared: // nothing reaches the host
		t.project, err = b.openOwned(b.cfg.Project, false, nil)
	case b.cfg.Changes == "":
		t.project, err = b.openOwned(b.cfg.Project, true, b.cfg.Owner)
	default:
		return b.openLayers(t)
	}
	return err
}

// openLayers copies the project and the directory for its changes under one mapping.
func (b *Bundle) openLayers(t *trees) (err error) {
	owner := b.cfg.Owner
	if owner == nil {
		var st unix.Stat_t
		if err := unix.Stat(b.cfg.Project, &st); err != nil {
			return err
		}
		owner = &Owner{st.Uid, st.Gid}
	}
	if t.project, err = b.openMapped(b.cfg.Project, false, owner, b.cfg.IDs.layered); err == nil {
		t.changes, err = b.openMapped(b.cfg.Changes, true, owner, b.cfg.IDs.layered)
	}
	return err
}

// mapping is IDs.owned or IDs.layered.
type mapping func(owner, agent uint32) []syscall.SysProcIDMap

func (b *Bundle) openOwned(path string, write bool, owner *Owner) (tree, error) {
	return b.openMapped(path, write, owner, b.cfg.IDs.owned)
}

// openMapped copies a tree such that owner, or the tree's own, appears as the agent. Where the file system cannot be id-mapped
// (before Linux 5.12; overlayfs, NFS and others at any version) a tree that is only read is shown as it is; one that
// is to be written cannot be, and is refused.
func (b *Bundle) openMapped(path string, write bool, owner *Owner, ids mapping) (tree, error) {
	t, err := openTree(path, write)
	if err != nil {
		return tree{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(t.f.Fd()), &st); err != nil {
		t.f.Close()
		return tree{}, err
	}
	if owner == nil {
		owner = &Owner{st.Uid, st.Gid}
	}
	err = mapTree(t.f, ids(owner.UID, AgentUID), ids(owner.GID, AgentGID))
	switch {
	case err == nil:
		return t, nil
	case write:
		t.f.Close()
		return tree{}, fmt.Errorf("map owner to the agent: %w", err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM), errors.Is(err, unix.EOPNOTSUPP):
		b.note("%s cannot be id-mapped (%v): the agent sees it as nobody's, and not what others may not read", path, err)
		return t, nil
	}
	t.f.Close()
	return tree{}, err
}

// openTree copies the mounts at path and below, detached from any namespace. Unless it is to be written, the copy is
// read-only from the start: what builds the root must not reach the host through it either.
func openTree(path string, write bool) (tree, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return tree{}, fmt.Errorf("open tree: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	st, err := f.Stat()
	if err == nil && !write {
		err = setTree(f, readOnly())
	}
	if err != nil {
		f.Close()
		return tree{}, fmt.Errorf("open tree: %w", err)
	}
	return tree{f, st.IsDir()}, nil
}

// readOnly also takes away devices and set-uid files, and in a way that the sandbox's own user namespace cannot give back
// (mount_namespaces(7), locked flags).
func readOnly() *unix.MountAttr {
	return &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
}

// mapTree id-maps a detached tree (mount_setattr(2), Linux 5.12).
func mapTree(f *os.File, uids, gids []syscall.SysProcIDMap) error {
	ns, err := userNS(uids, gids)
	if err != nil {
		return err
	}
	defer ns.Close()
	return setTree(f, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
}

func setTree(f *os.File, attr *unix.MountAttr) error {
	return unix.MountSetattr(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr)
}

// attach mounts the tree at path, which must exist and be of the same kind.
func (t tree) attach(path string) error {
	err := unix.MoveMount(int(t.f.Fd()), "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("mount %q on %q: %w", t.f.Name(), path, err)
	}
	return nil
}

// bind shows the host's file or directory src at dst, read-only.
func bind(src, dst string) error {
	t, err := openTree(src, false)
	if err != nil {
		return err
	}
	defer t.f.Close()
	return t.attach(dst)
}

// seal makes everything mounted at and below dir read-only.
func seal(dir string) error {
	t, err := openTree(dir, false)
	if err != nil {
		return err
	}
	defer t.f.Close()
	return t.attach(dir)
}

// inside is the path on the host side of p, a path in the sandbox.
func (b *Bundle) inside(p string) string { return filepath.Join(b.rootDir(), p) }
