package cli

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// caller is the person behind this process: under sudo the one who typed it, not root.
type caller struct {
	uid, gid uint32
	home     string // "" when none is known
	environ  []string
}

// whoCalls finds the caller. sudo leaves their ids in SUDO_UID and SUDO_GID, but neither their PATH nor their
// keys (sudoers(5), env_reset); those are still in the environment that sudo itself was started with, which
// root may read. Nothing else is ever taken from there than the variables that are asked for by name.
func whoCalls() caller {
	c := caller{uid: uint32(os.Getuid()), gid: uint32(os.Getgid()), environ: os.Environ()}
	uid, uidErr := strconv.ParseUint(os.Getenv("SUDO_UID"), 10, 32)
	gid, gidErr := strconv.ParseUint(os.Getenv("SUDO_GID"), 10, 32)
	if c.uid == 0 && uidErr == nil && gidErr == nil {
		c.uid, c.gid = uint32(uid), uint32(gid)
		c.environ = append(sudoEnviron(os.Getppid()), c.environ...) // of two, the later counts
	}
	if c.home = homeOf(c.uid); c.home == "" && int(c.uid) == os.Getuid() {
		c.home = os.Getenv("HOME")
	}
	return c
}

// underSudo reports whether the caller is another than this process's user.
func (c caller) underSudo() bool { return int(c.uid) != os.Getuid() }

// lookup returns a variable of the caller's environment.
func (c caller) lookup(name string) (value string, ok bool) {
	for _, kv := range c.environ {
		if k, v, is := strings.Cut(kv, "="); is && k == name {
			value, ok = v, true
		}
	}
	return value, ok
}

// path returns the directories of the caller's PATH that are absolute, sudo's own after theirs.
func (c caller) path() []string {
	var dirs []string
	for _, kv := range c.environ {
		if v, is := strings.CutPrefix(kv, "PATH="); is {
			for _, dir := range filepath.SplitList(v) {
				if filepath.IsAbs(dir) {
					dirs = append(dirs, filepath.Clean(dir))
				}
			}
		}
	}
	return dirs
}

// sudoEnviron returns the environment that sudo was started with: that of the parent, or of the parent's parent
// where sudo has a monitor between (use_pty). Nil when neither is sudo.
func sudoEnviron(pid int) []string {
	for range 2 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return nil
		}
		name, rest, _ := strings.Cut(strings.TrimPrefix(string(stat), fmt.Sprintf("%d (", pid)), ") ")
		if name == "sudo" {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
			if err == nil && len(text) > 0 {
				return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
			}
		}
		var state string
		if _, err := fmt.Sscan(rest, &state, &pid); err != nil || pid <= 1 {
			return nil
		}
	}
	return nil
}

// homeOf returns the home of an account in /etc/passwd, "" for none. It is read here and not asked of os/user,
// which without cgo reads the same file but knows the current user by HOME, which is root's or the caller's as
// sudo was told.
func homeOf(uid uint32) string {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) >= 6 && fields[2] == strconv.FormatUint(uint64(uid), 10) && filepath.IsAbs(fields[5]) {
			return filepath.Clean(fields[5])
		}
	}
	return ""
}

// executable reports whether name is a file that somebody may execute; who, the sandbox decides.
func executable(name string) bool {
	var st unix.Stat_t
	return unix.Stat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0
}
