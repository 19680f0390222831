package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// tools are the directories of the host that make up the sandbox's programs. On a merged-usr host all but /usr are
// links into it and are copied as such.
var tools = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// openTools copies the mounts of the host's tools, or those of the directory that Config.Rootfs names.
func (b *Bundle) openTools(t *trees) error {
	names, err := b.toolNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		src := filepath.Join(b.cfg.Rootfs, name)
		st, err := os.Lstat(src)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !st.IsDir() {
			continue
		}
		if t.usr[name], err = b.openTool(src); err != nil {
			return err
		}
	}
	return nil
}

// openTool copies one directory of tools. The host's keep their owners, who are nobody in the sandbox: what only root
// may read stays unread. A Rootfs is the agent's own world, so its root is the sandbox's.
func (b *Bundle) openTool(src string) (tree, error) {
	t, err := openTree(src, false)
	if err != nil || b.cfg.Rootfs == "" {
		return t, err
	}
	same := b.cfg.IDs.owned(AgentUID, AgentUID)
	if err := mapTree(t.f, same, same); err != nil {
		b.note("%s cannot be id-mapped (%v): the agent sees it as nobody's", src, err)
	}
	return t, nil
}

// made are the top-level directories that the bundle makes itself and never takes from Config.Rootfs.
var made = []string{"dev", "etc", "proc", "sys", "tmp", "home", "workspace", "run", "root"}

func (b *Bundle) toolNames() ([]string, error) {
	if b.cfg.Rootfs == "" {
		return tools, nil
	}
	entries, err := os.ReadDir(b.cfg.Rootfs)
	if err != nil {
		return nil, fmt.Errorf("read rootfs: %w", err)
	}
	var names []string
	for _, e := range entries {
		if !slices.Contains(made, e.Name()) {
			names = append(names, "/"+e.Name())
		}
	}
	return names, nil
}

// buildRoot puts the root together and seals it.
func (b *Bundle) buildRoot(t *trees) error {
	if err := b.openRoot(); err != nil {
		return err
	}
	for _, step := range []func(*trees) error{b.skeleton, b.attachTools, b.makeEtc, b.makeFiles, b.attachProject, b.attachShared, b.coverTrust} {
		if err := step(t); err != nil {
			return err
		}
	}
	return seal(b.rootDir())
}

// openRoot gives the root a tmpfs of its own. The handle stays writable when the mount on top of it is sealed.
func (b *Bundle) openRoot() (err error) {
	if err := unix.Mount("superserve", b.rootDir(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	if b.root, err = os.OpenRoot(b.rootDir()); err != nil {
		return err
	}
	return b.own("/", 0, 0)
}

func (b *Bundle) skeleton(*trees) error {
	for _, d := range []struct {
		path string
		mode fs.FileMode
		uid  uint32
	}{
		{"/dev", 0o755, 0}, {"/proc", 0o555, 0}, {"/sys", 0o555, 0}, {"/run", 0o755, 0},
		{"/root", 0o711, 0}, // empty, but for programs that the operator mounts at their own paths
		{"/tmp", 0o777 | fs.ModeSticky, 0}, {"/var", 0o755, 0}, {"/var/tmp", 0o777 | fs.ModeSticky, 0},
		{"/var/cache", 0o755, 0}, {"/var/lib", 0o755, 0}, {"/var/log", 0o755, 0},
		{"/home", 0o755, 0}, {Home, 0o755, AgentUID}, {Workspace, 0o755, AgentUID}, {"/etc", 0o755, 0},
	} {
		if strings.HasPrefix(d.path, "/var") && b.fromRootfs("/var") {
			continue
		}
		if err := b.mkdir(d.path, d.mode, d.uid); err != nil {
			return err
		}
	}
	if b.fromRootfs("/var") {
		return nil
	}
	return b.link("/run", "/var/run")
}

// fromRootfs reports whether the top-level directory dir comes with Config.Rootfs.
func (b *Bundle) fromRootfs(dir string) bool {
	if b.cfg.Rootfs == "" {
		return false
	}
	_, err := os.Lstat(filepath.Join(b.cfg.Rootfs, dir))
	return err == nil
}

// attachTools mounts the directories among the tools and repeats the links.
func (b *Bundle) attachTools(t *trees) error {
	names, err := b.toolNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		if one, ok := t.usr[name]; ok {
			if err := b.mkdir(name, 0o755, 0); err != nil {
				return err
			}
			if err := one.attach(b.inside(name)); err != nil {
				return err
			}
			continue
		}
		if err := b.copyEntry(filepath.Join(b.cfg.Rootfs, name), name); err != nil {
			return err
		}
	}
	return nil
}

// copyEntry repeats a link of the host, or binds a file; anything else, and nothing, is passed over.
func (b *Bundle) copyEntry(src, dst string) error {
	st, err := os.Lstat(src)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case st.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(src)
		if err != nil {
			return err
		}
		return b.link(to, dst)
	case st.Mode().IsRegular():
		if err := b.write(dst, nil, 0o644, 0); err != nil {
			return err
		}
		return bind(src, b.inside(dst))
	case st.IsDir():
		if err := b.mkdir(dst, 0o755, 0); err != nil {
			return err
		}
		return bind(src, b.inside(dst))
	}
	return nil
}

// attachProject puts the project under Workspace: as a part of the root, whose overlay takes the writes, or as a mount
// of its own that the spec names, which passes them through.
func (b *Bundle) attachProject(t *trees) error {
	switch {
	case t.project.f == nil:
		return nil
	case !t.project.dir:
		return fmt.Errorf("mount project %q: %w", b.cfg.Project, unix.ENOTDIR)
	case b.cfg.Shared && t.changes.f != nil:
		return b.attachLayered(t)
	case b.cfg.Shared:
		return b.attachBeside(t.project, "workspace")
	case b.filesBelow(Workspace):
		return b.attachFilesOver(t)
	}
	return t.project.attach(b.inside(Workspace))
}

// attachShared puts the mounts that pass writes through beside the root, where the spec finds them, and makes their
// places in it.
func (b *Bundle) attachShared(t *trees) error {
	if t.home.f != nil {
		if err := b.attachBeside(t.home, "home"); err != nil {
			return err
		}
		if err := b.placeFiles(); err != nil {
			return err
		}
	}
	for i, m := range b.cfg.Mounts {
		if err := b.place(m.Destination, t.mounts[i].dir); err != nil {
			return err
		}
		if err := b.attachBeside(t.mounts[i], fmt.Sprint(i)); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bundle) attachBeside(t tree, name string) error {
	at := filepath.Join(b.mountDir(), name)
	if t.dir {
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		return t.attach(at)
	}
	if err := os.WriteFile(at, nil, 0o644); err != nil {
		return err
	}
	return t.attach(at)
}

// place makes the mount point of a shared mount. Under the project or the host's tools, which are read-only, it has to
// be there already.
func (b *Bundle) place(dst string, dir bool) error {
	if dst == "/" || !path.IsAbs(dst) || path.Clean(dst) != dst {
		return fmt.Errorf("mount destination %q: not a clean absolute path", dst)
	}
	if _, err := b.stat(dst); err == nil {
		return nil
	}
	parent := "/"
	for _, part := range strings.Split(strings.Trim(path.Dir(dst), "/"), "/") {
		if parent = path.Join(parent, part); parent == "/" {
			continue
		}
		if err := b.mkdir(parent, 0o755, 0); err != nil {
			return fmt.Errorf("mount destination %q: %w", dst, err)
		}
	}
	if dir {
		return b.mkdir(dst, 0o755, AgentUID)
	}
	return b.write(dst, nil, 0o644, AgentUID)
}

// The functions below work on the root by paths of the sandbox. os.Root keeps them inside, whatever a Rootfs holds.

// mkdir makes a directory, if it is missing, and gives it to uid.
func (b *Bundle) mkdir(dir string, mode fs.FileMode, uid uint32) error {
	err := b.root.Mkdir(rel(dir), 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := b.own(dir, uid, uid); err != nil {
		return err
	}
	return b.root.Chmod(rel(dir), mode)
}

func (b *Bundle) write(file string, data []byte, mode fs.FileMode, uid uint32) error {
	if err := b.root.WriteFile(rel(file), data, mode); err != nil {
		return err
	}
	return b.own(file, uid, uid)
}

func (b *Bundle) link(to, at string) error {
	if err := b.root.Symlink(to, rel(at)); err != nil {
		return err
	}
	return b.own(at, 0, 0)
}

func (b *Bundle) own(file string, uid, gid uint32) error {
	return b.root.Lchown(rel(file), int(b.cfg.IDs.Host(uid)), int(b.cfg.IDs.Host(gid)))
}

// stat looks at a path as the sandbox will resolve it, absolute links included.
func (b *Bundle) stat(p string) (unix.Stat_t, error) {
	var st unix.Stat_t
	f, err := b.resolve(p)
	if err != nil {
		return st, err
	}
	defer f.Close()
	return st, unix.Fstat(int(f.Fd()), &st)
}

// resolve opens a path of the sandbox with O_PATH (openat2(2), Linux 5.6).
func (b *Bundle) resolve(p string) (*os.File, error) {
	dir, err := b.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat2(int(dir.Fd()), rel(p), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "resolve", Path: p, Err: err}
	}
	return os.NewFile(uintptr(fd), p), nil
}

func rel(p string) string {
	if p = strings.TrimPrefix(p, "/"); p != "" {
		return p
	}
	return "."
}
