package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// errNotShared means that a folder is one that an agent must not be let into.
var errNotShared = errors.New("is not shared with an agent")

// The folders that no agent is let into. In systemFolders, nothing below is a project either; of soleFolders
// only they themselves are meant: projects live below them.
var (
	systemFolders = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr"}
	soleFolders   = []string{"/", "/home", "/media", "/mnt", "/opt", "/root", "/srv", "/tmp", "/var", "/var/tmp",
		"/var/cache", "/var/lib", "/var/log", "/var/spool", "/usr/local/src", "/usr/src"}
)

// checkShare refuses to give an agent a folder whose loss or disclosure would be the machine's or the person's:
// the system, a home, what holds their keys, superserve's own state. dir is absolute and without links.
func (c caller) checkShare(dir string, p places) error {
	why := ""
	switch {
	case slices.Contains(soleFolders, dir):
		why = "it is a part of the system"
	case slices.ContainsFunc(systemFolders, func(s string) bool { return below(dir, s) }) && !below(dir, "/usr/src") && !below(dir, "/usr/local/src"):
		why = "it is a part of the system"
	case below(p.state, dir) || below(p.run, dir) || below(dir, p.state):
		why = "superserve's own state is in it"
	case c.home != "" && below(c.home, dir) || below("/root", dir):
		why = "it holds a home, and with it what logs in elsewhere"
	case c.home != "" && hiddenIn(dir, c.home) || hiddenIn(dir, "/root"):
		why = "it is a hidden folder of a home, where programs keep their keys"
	default:
		return nil
	}
	return fmt.Errorf("%s %w: %s", dir, errNotShared, why)
}

// below reports whether dir is parent or below it.
func below(dir, parent string) bool {
	rel, err := filepath.Rel(parent, dir)
	return err == nil && filepath.IsLocal(rel)
}

// hiddenIn reports whether dir is, or is below, a folder of home whose name begins with a dot.
func hiddenIn(dir, home string) bool {
	rel, err := filepath.Rel(home, dir)
	return err == nil && filepath.IsLocal(rel) && strings.HasPrefix(rel, ".") && rel != "."
}
