package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
)

// needDisks skips where file systems cannot be made and mounted.
func needDisks(t *testing.T, commands ...string) {
	t.Helper()
	missing := ""
	if os.Geteuid() != 0 {
		missing = "root"
	}
	for _, c := range commands {
		if _, err := exec.LookPath(c); err != nil {
			missing = c
		}
	}
	if missing == "" {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing", missing)
	}
	t.Skipf("%s is missing", missing)
}

func must(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

// mounted mounts what on a new directory until the test ends, or until the returned
// function is called.
func mounted(t *testing.T, args ...string) (dir string, unmount func()) {
	t.Helper()
	dir = stateDir(t)
	must(t, "mount", append(args, dir)...)
	done := false
	unmount = func() {
		if !done {
			done = true
			must(t, "umount", dir)
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// disk makes an image with an ext4 whose journal is written every five minutes only: what
// was not synced is not on the disk.
func disk(t *testing.T, path string) {
	t.Helper()
	must(t, "truncate", "-s", "24M", path)
	must(t, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", path)
}

const ext4Options = "loop,commit=300"

// snapshots makes a directory in which files can be copied at one instant (FICLONE on
// XFS): a copy of a disk's image is what a power cut at that instant leaves.
func snapshots(t *testing.T) string {
	t.Helper()
	image := filepath.Join(stateDir(t), "xfs")
	must(t, "truncate", "-s", "512M", image)
	must(t, "mkfs.xfs", "-q", "-m", "reflink=1", image)
	dir, _ := mounted(t, "-o", "loop", image)
	return dir
}

// snapshot copies an image to a file of a new name: a mount of the copy of before can
// still be alive in the mount namespace of another process, and whoever mounts the same
// file again would be shown that old one.
func snapshot(t *testing.T, from string) (to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(from), "copy-*")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := unix.IoctlFileClone(int(out.Fd()), int(in.Fd())); err != nil {
		t.Fatal(err)
	}
	return out.Name()
}

// cuts is how many power cuts a test makes.
func cuts(t *testing.T) int { return max(6, 2*times(t)) }

// TestPowerCut cuts the power of a secretd that stores as fast as it can: on the disk is
// every change that was acknowledged, and the store opens.
func TestPowerCut(t *testing.T) {
	needDisks(t, "mkfs.xfs", "mkfs.ext4", "mount", "truncate")
	dir := snapshots(t)
	image := filepath.Join(dir, "disk")
	disk(t, image)
	state, unmount := mounted(t, "-o", ext4Options, image)
	run := stateDir(t)
	cmd := command(t, "--state", state, "--socket", socketIn(run))
	serving(t, cmd)
	var acknowledged, begun atomic.Uint64
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() { stopped <- rotate(t, client.New(socketIn(run)), &begun, &acknowledged, stop) }()
	lost, corrupt := 0, 0
	for range cuts(t) {
		reached := acknowledged.Load() + 1 + rand.Uint64N(8)
		for acknowledged.Load() < reached && len(stopped) == 0 {
			time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond) // the moment of the cut
		}
		before := acknowledged.Load()
		copied := snapshot(t, image)
		after := begun.Load()
		version, err := stored(t, copied)
		must(t, "rm", copied)
		switch {
		case err != nil:
			corrupt++
			t.Errorf("after %d changes: %v", before, err)
		case version < before || version > after:
			lost++
			t.Errorf("version %d on the disk; %d were acknowledged, %d begun", version, before, after)
		}
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	unmount()
	t.Logf("%d power cuts in %d changes: %d lost acknowledged changes, %d corrupt stores", cuts(t), begun.Load(), lost, corrupt)
}

// rotate sets one secret again and again, so that its version counts the changes, and
// others beside it, so that the store's pages move.
func rotate(t *testing.T, c *client.Client, begun, acknowledged *atomic.Uint64, stop <-chan struct{}) error {
	for n := uint64(1); ; n++ {
		select {
		case <-stop:
			return nil
		default:
		}
		begun.Store(n)
		_, err := c.Set(t.Context(), "my-agent", []api.Setting{
			{Name: "KEY", Value: fmt.Appendf(nil, "value number %d", n)},
			{Name: fmt.Sprintf("OTHER_%d", n%40), Value: []byte(strings.Repeat("x", int(n%3000)+8))},
		})
		if err != nil {
			return fmt.Errorf("change %d: %w", n, err)
		}
		acknowledged.Store(n)
	}
}

// stored starts secretd on a copy of the disk and returns the version of KEY.
func stored(t *testing.T, image string) (uint64, error) {
	t.Helper()
	state, unmount := mounted(t, "-o", "loop", image)
	defer unmount()
	run := stateDir(t)
	cmd := command(t, "--state", state, "--socket", socketIn(run))
	if err := served(t, cmd); err != nil {
		return 0, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	c := client.New(socketIn(run))
	list, err := c.List(t.Context(), "my-agent")
	if err != nil || len(list) == 0 {
		return 0, err
	}
	if list[0].Name != "KEY" {
		return 0, fmt.Errorf("first is %q", list[0].Name)
	}
	reply, file, err := c.Grant(t.Context(), api.GrantRequest{Agent: "my-agent", Run: "r", Secrets: []api.Wanted{{Name: "KEY", Expose: true}}})
	if err != nil {
		return 0, err
	}
	file.Close()
	if want := fmt.Sprintf("value number %d", list[0].Version); string(reply.Exposed["KEY"]) != want {
		return 0, fmt.Errorf("version %d has another's value", list[0].Version)
	}
	return list[0].Version, nil
}

// TestPowerCutInTheFirstStart cuts the power while the store is made: the next start
// makes or finishes it.
func TestPowerCutInTheFirstStart(t *testing.T) {
	needDisks(t, "mkfs.xfs", "mkfs.ext4", "mount", "truncate")
	dir := snapshots(t)
	image := filepath.Join(dir, "disk")
	disk(t, image)
	state, _ := mounted(t, "-o", ext4Options, image)
	for n := range cuts(t) {
		below := filepath.Join(state, fmt.Sprint(n))
		cmd := command(t, "--state", below, "--socket", socketIn(stateDir(t)))
		started := make(chan error, 1)
		go func() { started <- served(t, cmd) }()
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond) // the moment of the cut
		copied := snapshot(t, image)
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		opens(t, copied, fmt.Sprint(n))
		must(t, "rm", copied)
	}
}

// opens starts secretd on a directory of a copy of the disk, and stores something.
func opens(t *testing.T, image, below string) {
	t.Helper()
	state, unmount := mounted(t, "-o", "loop", image)
	defer unmount()
	run := stateDir(t)
	cmd := command(t, "--state", filepath.Join(state, below), "--socket", socketIn(run))
	if err := served(t, cmd); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if _, err := client.New(socketIn(run)).Set(t.Context(), "a", []api.Setting{{Name: "KEY", Value: []byte("a-value-of-mine")}}); err != nil {
		t.Fatal(err)
	}
}

// TestFullDisk fills the disk: changes are refused with an error and leave what was
// there; when there is room again they are taken, without a restart.
func TestFullDisk(t *testing.T) {
	needDisks(t, "mount")
	state, _ := mounted(t, "-t", "tmpfs", "-o", "size=1536k,mode=0755", "tmpfs")
	run := stateDir(t)
	ballast := filepath.Join(state, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 512<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, "--state", state, "--socket", socketIn(run))
	serving(t, cmd)
	c := client.New(socketIn(run))
	set := func(n int) error {
		_, err := c.Set(t.Context(), "my-agent", []api.Setting{{Name: fmt.Sprintf("KEY_%03d", n), Value: []byte(strings.Repeat("v", 60<<10))}})
		return err
	}
	n := 0
	for ; n < 100; n++ {
		if err := set(n); err != nil {
			t.Logf("change %d: %v", n, err)
			break
		}
	}
	if n == 0 || n == 100 {
		t.Fatalf("the disk was full after %d changes", n)
	}
	for range 3 {
		if err := set(n); err == nil || !strings.Contains(err.Error(), "no space left on device") {
			t.Fatalf("a full disk answered %v", err)
		}
	}
	if list, err := c.List(t.Context(), "my-agent"); err != nil || len(list) != n {
		t.Fatalf("%d secrets, %v; want the %d that were acknowledged", len(list), err, n)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := set(n); err != nil {
		t.Fatalf("with room again: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	serving(t, command(t, "--state", state, "--socket", socketIn(run)))
	if list, err := c.List(t.Context(), "my-agent"); err != nil || len(list) != n+1 {
		t.Fatalf("after a restart %d secrets, %v; want %d", len(list), err, n+1)
	}
}

// TestFailingDisk shuts a disk down under secretd (EXT4_IOC_SHUTDOWN: every access is
// EIO from then on, as when it is pulled out): changes and uses are refused, and what
// was acknowledged is on the disk.
func TestFailingDisk(t *testing.T) {
	needDisks(t, "mkfs.ext4", "mount", "truncate")
	image := filepath.Join(stateDir(t), "disk")
	disk(t, image)
	state, unmount := mounted(t, "-o", ext4Options, image)
	run := stateDir(t)
	cmd := command(t, "--state", state, "--socket", socketIn(run))
	serving(t, cmd)
	c := client.New(socketIn(run))
	set := func(n int) error {
		_, err := c.Set(t.Context(), "my-agent", []api.Setting{{Name: "KEY", Value: fmt.Appendf(nil, "value number %d", n)}})
		return err
	}
	const good = 5
	for n := 1; n <= good; n++ {
		if err := set(n); err != nil {
			t.Fatal(err)
		}
	}
	shutdown(t, state)
	for range 3 {
		if set(99) == nil {
			t.Fatal("a dead disk took a change")
		}
		if _, _, err := c.Grant(t.Context(), api.GrantRequest{Agent: "my-agent", Run: "r", Secrets: []api.Wanted{{Name: "KEY"}}}); err == nil {
			t.Fatal("granted what could not be recorded")
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	unmount()
	if version, err := stored(t, image); err != nil || version != good {
		t.Fatalf("version %d, %v; want %d", version, err, good)
	}
}

func shutdown(t *testing.T, dir string) {
	t.Helper()
	const ext4Shutdown, noLogFlush = 0x8004587d, uint32(2) // fs/ext4/ext4.h
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flag := noLogFlush
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&flag))); errno != 0 {
		t.Fatal(errno)
	}
}

// TestReadOnlyDisk starts on a disk that nothing can be written to.
func TestReadOnlyDisk(t *testing.T) {
	needDisks(t, "mount")
	state, _ := mounted(t, "-t", "tmpfs", "-o", "size=1m,mode=0755", "tmpfs")
	run := stateDir(t)
	cmd := command(t, "--state", state, "--socket", socketIn(run))
	serving(t, cmd)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	must(t, "mount", "-o", "remount,ro", state)
	refuses(t, command(t, "--state", state, "--socket", socketIn(run)), exitError, "read-only file system")
	must(t, "mount", "-o", "remount,rw", state)
	serving(t, command(t, "--state", state, "--socket", socketIn(run)))
}

// TestStrangeFiles changes the mode, owner or kind of each file of the daemon's.
func TestStrangeFiles(t *testing.T) {
	needDisks(t)
	dir := stateDir(t)
	cmd := start(t, dir)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	args := []string{"--state", dir, "--socket", socketIn(dir)}
	for _, name := range []string{"secretd", "secretd/store.db", "secretd/key", "secretd/audit.log", "secretd/lock", "secretd.anchor"} {
		path := filepath.Join(dir, name)
		aside := path + ".aside"
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		for want, f := range map[string]struct{ spoil, mend func() error }{
			"lets others in": {func() error { return os.Chmod(path, info.Mode()|0o040) }, func() error { return os.Chmod(path, info.Mode().Perm()) }},
			"belongs to uid": {func() error { return os.Chown(path, 65534, -1) }, func() error { return os.Chown(path, 0, -1) }},
			"symbolic link":  {func() error { return swap(path, aside, os.Symlink) }, func() error { return os.Rename(aside, path) }},
			"is not a": {func() error {
				return swap(path, aside, func(_, path string) error { return syscall.Mkfifo(path, 0o600) })
			}, func() error { return os.Rename(aside, path) }},
			"2 names": {func() error { return os.Link(path, aside) }, func() error { return os.Remove(aside) }},
		} {
			if want == "2 names" && info.IsDir() {
				continue
			}
			t.Run(fmt.Sprintf("it refuses %s: %s", name, want), func(t *testing.T) {
				if err := f.spoil(); err != nil {
					t.Fatal(err)
				}
				refuses(t, command(t, args...), exitError, want)
				if want == "symbolic link" || want == "is not a" {
					_ = os.Remove(path)
				}
				if err := f.mend(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
	start(t, dir)
}

// swap puts something else in the place of path, which is aside then.
func swap(path, aside string, make func(aside, path string) error) error {
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	return make(aside, path)
}
