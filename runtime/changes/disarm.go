package changes

import (
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func sorted(names []string) []string {
	slices.Sort(names)
	return names
}

// Disarm takes the set-uid and set-gid bits from regular files below dir that were changed since a time, and returns
// their names: an agent cannot raise itself by them, but whoever may execute what it left would become the folder's
// owner. Folders on other file systems are not entered.
func Disarm(dir string, since time.Time) ([]string, error) {
	top, err := openTop(dir)
	if err != nil {
		return nil, fmt.Errorf("disarm: %w", err)
	}
	defer top.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(top.Fd()), &st); err != nil {
		return nil, fmt.Errorf("disarm %s: %w", dir, err)
	}
	d := disarmer{device: st.Dev, since: since.Add(-time.Second)} // file systems keep a coarser clock
	err = d.walk(top, ".", 0)
	return d.found, err
}

type disarmer struct {
	device uint64
	since  time.Time
	found  []string
}

func (d *disarmer) walk(dir *os.File, at string, depth int) error {
	if depth > maxDepth {
		return nil
	}
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("disarm %q: %w", at, err)
	}
	for _, e := range entries {
		name := path.Join(at, e.Name())
		switch {
		case e.IsDir():
			sub, err := openDir(dir, e.Name())
			if err != nil {
				continue // gone, or another's by now
			}
			if st := new(unix.Stat_t); unix.Fstat(int(sub.Fd()), st) == nil && st.Dev == d.device {
				err = d.walk(sub, name, depth+1)
			}
			sub.Close()
			if err != nil {
				return err
			}
		case e.Type().IsRegular():
			if err := d.file(dir, e.Name(), name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *disarmer) file(dir *os.File, base, name string) error {
	const armed = unix.S_ISUID | unix.S_ISGID
	st, ok, err := stat(dir, base)
	if err != nil || !ok || st.Mode&armed == 0 || kindOf(st) != unix.S_IFREG || time.Unix(st.Ctim.Unix()).Before(d.since) {
		return err
	}
	f, err := openFile(dir, base)
	if err != nil {
		return fmt.Errorf("disarm %q: %w", name, err)
	}
	defer f.Close()
	if err := unix.Fchmod(int(f.Fd()), st.Mode&0o777); err != nil {
		return fmt.Errorf("disarm %q: %w", name, err)
	}
	d.found = append(d.found, name)
	return nil
}
