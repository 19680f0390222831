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

// The files of Config.Files are on tmpfs in every case, so that no placeholder reaches a disk and none outlives its run:
// in the root itself where the home is a fresh one, in a layer over the project's copy, and mounted one by one over
// places in a home that is kept. They are made empty, before the world is sealed, and filled when the grant is there.

// filesDir is where the files below one of Home and Workspace are kept when they cannot be a part of the root.
func (b *Bundle) filesDir(top string) string { return filepath.Join(b.base, "files", path.Base(top)) }

// filesBelow reports whether there are files below top.
func (b *Bundle) filesBelow(top string) bool {
	return slices.ContainsFunc(b.cfg.Files, func(p string) bool { return strings.HasPrefix(p, top+"/") })
}

// makeFiles makes the files, empty. A mount that is put over them later hides those of the root, not the others.
func (b *Bundle) makeFiles(*trees) error {
	b.files = make(map[string]*os.File)
	for _, p := range b.cfg.Files {
		top, dir := b.rootDir(), p
		if strings.HasPrefix(p, Workspace+"/") || b.cfg.Home != "" {
			home := Home
			if strings.HasPrefix(p, Workspace+"/") {
				home = Workspace
			}
			top, dir = b.filesDir(home), strings.TrimPrefix(p, home)
		}
		f, err := b.makeFile(top, rel(dir))
		if err != nil {
			return fmt.Errorf("make file %q: %w", p, err)
		}
		b.files[p] = f
	}
	return nil
}

// makeFile makes a file and the directories on the way to it, the agent's own all of them, below top on our own tmpfs.
func (b *Bundle) makeFile(top, name string) (*os.File, error) {
	if err := os.MkdirAll(top, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(top)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	id := int(b.cfg.IDs.Host(AgentUID))
	steps := strings.Split(name, "/")
	for i := range len(steps) - 1 {
		dir := path.Join(steps[:i+1]...)
		err := root.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = root.Lchown(dir, id, id)
		}
		if err != nil {
			return nil, err
		}
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return f, f.Chown(id, id)
}

// attachFilesOver puts the layer of files over the project's copy, which gVisor's own overlay then takes writes over.
// Where a project has a link in the place of one of the layer's directories, the directory wins: overlayfs merges
// directories only, so no link of a project is ever followed.
func (b *Bundle) attachFilesOver(t *trees) error {
	lower := filepath.Join(b.base, "lower")
	if err := os.Mkdir(lower, 0o755); err != nil {
		return err
	}
	if err := t.project.attach(lower); err != nil {
		return err
	}
	if err := b.likeProject(lower); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=%s:%s", b.filesDir(Workspace), lower)
	if err := unix.Mount("superserve", b.inside(Workspace), "overlay", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_RDONLY, options); err != nil {
		return fmt.Errorf("mount files over the project: %w", err)
	}
	return nil
}

// likeProject gives the layer's top the project's mode, for it is what the agent sees of /workspace itself.
func (b *Bundle) likeProject(project string) error {
	st, err := os.Stat(project)
	if err != nil {
		return err
	}
	id := int(b.cfg.IDs.Host(AgentUID))
	if err := os.Chown(b.filesDir(Workspace), id, id); err != nil {
		return err
	}
	return os.Chmod(b.filesDir(Workspace), st.Mode().Perm())
}

// placeFiles mounts the files over their places in a home that is kept. Of that home nothing is trusted: a run before
// this one, or one beside it, may have put links there.
func (b *Bundle) placeFiles() error {
	for _, p := range b.cfg.Files {
		name, below := strings.CutPrefix(p, Home+"/")
		if !below {
			continue
		}
		if err := b.placeFile(name); err != nil {
			return fmt.Errorf("file %q in the agent's home: %w", p, err)
		}
	}
	return nil
}

func (b *Bundle) placeFile(name string) error {
	top, err := os.Open(b.cfg.Home)
	if err != nil {
		return err
	}
	defer top.Close()
	owner := b.cfg.Owner
	if owner == nil {
		var st unix.Stat_t
		if err := unix.Fstat(int(top.Fd()), &st); err != nil {
			return err
		}
		owner = &Owner{st.Uid, st.Gid}
	}
	if err := makePlace(top, name, *owner); err != nil {
		return err
	}
	at, err := os.Open(filepath.Join(b.mountDir(), "home"))
	if err != nil {
		return err
	}
	defer at.Close()
	place, err := openBeneath(at, name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer place.Close()
	file, err := openTree(filepath.Join(b.filesDir(Home), name), true)
	if err != nil {
		return err
	}
	defer file.f.Close()
	return unix.MoveMount(int(file.f.Fd()), "", int(place.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// makePlace makes an empty file for a mount to lie over, and the directories on the way, owner's, unless they are there.
func makePlace(top *os.File, name string, owner Owner) error {
	dir, steps := top, strings.Split(name, "/")
	for _, step := range steps[:len(steps)-1] {
		if err := unix.Mkdirat(int(dir.Fd()), step, 0o755); err == nil {
			err = unix.Fchownat(int(dir.Fd()), step, int(owner.UID), int(owner.GID), unix.AT_SYMLINK_NOFOLLOW)
			if err != nil {
				return err
			}
		}
		next, err := openBeneath(dir, step, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer next.Close()
		dir = next
	}
	last := steps[len(steps)-1]
	f, err := openBeneath(dir, last, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err == nil {
		defer f.Close()
		return f.Chown(int(owner.UID), int(owner.GID))
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), last, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("another thing than a file is there")
	}
	return nil
}

// openBeneath opens a name below dir through no link (openat2(2), Linux 5.6).
func openBeneath(dir *os.File, name string, flags uint64) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = 0o600
	}
	fd, err := unix.Openat2(int(dir.Fd()), name, &how)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// fillFiles writes what the agent finds.
func (b *Bundle) fillFiles(all []File) error {
	for _, file := range all {
		f, ok := b.files[file.Path]
		if !ok {
			return fmt.Errorf("fill file %q: %w", file.Path, fs.ErrNotExist)
		}
		if _, err := f.WriteAt(file.Data, 0); err != nil {
			return fmt.Errorf("fill file %q: %w", file.Path, err)
		}
	}
	return nil
}
