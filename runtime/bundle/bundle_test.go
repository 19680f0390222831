package bundle

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestIDs(t *testing.T) {
	seen := make(map[uint32]bool)
	for n := range uint32(slots) {
		ids := NewIDs(n)
		for _, id := range []uint32{ids.Host(0), ids.Host(idRange - 1), ids.Proxy()} {
			if seen[id] || id < firstID || id >= 0x7fff_0000 {
				t.Fatalf("slot %d: host id %d is shared or out of range", n, id)
			}
			seen[id] = true
		}
	}
	if NewIDs(slots) != NewIDs(0) {
		t.Error("it does not wrap around")
	}
}

func TestOwned(t *testing.T) {
	ids := NewIDs(7)
	for _, tt := range []struct {
		name         string
		owner, agent uint32
		disk, want   uint32 // want is the id inside
		mapped       bool
	}{
		{"the owner is the agent", 4242, 1000, 4242, 1000, true},
		{"the agent's number is the owner's", 4242, 1000, 1000, 4242, true},
		{"others keep theirs", 4242, 1000, 33, 33, true},
		{"root keeps its own", 4242, 1000, 0, 0, true},
		{"root may be the owner", 0, 1000, 0, 1000, true},
		{"the number of the agent may be the owner's", 1000, 1000, 1000, 1000, true},
		{"an owner with a high id is the agent", 1 << 20, 1000, 1 << 20, 1000, true},
		{"then the agent's number is nobody's", 1 << 20, 1000, 1000, 0, false},
		{"and ids between are nobody's", 1 << 20, 1000, 1 << 19, 0, false},
		{"the last id is mapped", 4242, 1000, idRange - 1, idRange - 1, true},
		{"the last id may be the owner", idRange - 1, 1000, idRange - 1, 1000, true},
	} {
		t.Run("it is so that "+tt.name, func(t *testing.T) {
			var got []uint32
			for _, m := range ids.owned(tt.owner, tt.agent) {
				if d := int(tt.disk) - m.ContainerID; d >= 0 && d < m.Size {
					got = append(got, uint32(m.HostID+d))
				}
			}
			var want []uint32
			if tt.mapped {
				want = []uint32{ids.Host(tt.want)}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("owned(%d, %d) of %d (-want +got):\n%s", tt.owner, tt.agent, tt.disk, diff)
			}
		})
	}
}

func TestSearchPath(t *testing.T) {
	const usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, tt := range []struct{ name, host, want string }{
		{"has the agent's own and the usual ones", "", "/home/agent/.local/bin:" + usual},
		{"takes the host's below /usr", "/root/bin:/usr/local/go/bin:/usr/bin:/opt/x", "/home/agent/.local/bin:/usr/local/go/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin"},
		{"takes no tricks", "/usr/../root/bin:/usr/a//b:usr/bin", "/home/agent/.local/bin:" + usual},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			if got := searchPath(nil, tt.host); got != tt.want {
				t.Errorf("searchPath(%q): got %q, want %q", tt.host, got, tt.want)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	got := merge([]string{"A=1", "B=2", "C=3"}, []string{"B=x=y", "D=4"})
	if diff := cmp.Diff([]string{"A=1", "C=3", "B=x=y", "D=4"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// world makes a bundle, which needs root.
func world(t *testing.T, cfg Config) *Bundle {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	cfg.ID, cfg.IDs = "test", NewIDs(uint32(os.Getpid()))
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestHostMountsAreUntouched(t *testing.T) {
	mounts := func() string {
		data, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	world(t, Config{Project: t.TempDir()})
	if strings.Contains(mounts(), "tmpfs superserve ") {
		t.Errorf("a bundle's mount is visible on the host:\n%s", mounts())
	}
}

func TestRootIsSealed(t *testing.T) {
	b := world(t, Config{Project: t.TempDir()})
	err := b.Do(func() error {
		for _, dir := range []string{"/", "/usr", "/etc", Workspace, Home} {
			if err := os.WriteFile(filepath.Join(b.rootDir(), dir, "x"), nil, 0o644); err == nil {
				t.Errorf("%s can be written", dir)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Trust(authority(t, 3)); err != nil {
		t.Errorf("trust after sealing: %v", err)
	}
	if data, err := b.root.ReadFile(rel(runFile)); err != nil || !strings.Contains(string(data), "BEGIN CERTIFICATE") {
		t.Errorf("got %q, %v", data, err)
	}
}

func TestNothingPrivateIsShown(t *testing.T) {
	b := world(t, Config{})
	for _, p := range []string{"/etc/shadow", "/etc/ssh", "/etc/sudoers", "/var/lib/dpkg", "/run/systemd", "/root/.bashrc", "/home/user", "/opt", "/boot"} {
		if _, err := b.stat(p); err == nil {
			t.Errorf("%s is there", p)
		}
	}
	for _, p := range []string{"/usr/bin/env", "/bin/sh", "/etc/passwd", "/etc/resolv.conf", Home, Workspace, "/var/run"} {
		if _, err := b.stat(p); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestSpec(t *testing.T) {
	b := world(t, Config{NetNS: "/proc/1/ns/net"})
	if err := b.WriteSpec(Process{Command: []string{"true"}, Env: []string{"HOME=/x"}}); err != nil {
		t.Fatal(err)
	}
	s := b.spec()
	if c := s.Process.Capabilities; len(c.Bounding)+len(c.Effective)+len(c.Permitted)+len(c.Inheritable)+len(c.Ambient) != 0 {
		t.Errorf("capabilities: %+v", c)
	}
	var kinds []string
	for _, ns := range s.Linux.Namespaces {
		kinds = append(kinds, string(ns.Type))
	}
	if diff := cmp.Diff([]string{"pid", "mount", "ipc", "uts", "user", "network"}, kinds); diff != "" {
		t.Errorf("namespaces (-want +got):\n%s", diff)
	}
	if !s.Process.NoNewPrivileges || len(s.Annotations) != 0 || s.Process.User.UID == 0 {
		t.Errorf("got %+v", s)
	}
	if !slices.Contains(s.Process.Env, "HOME=/x") || slices.Contains(s.Process.Env, "HOME="+Home) {
		t.Errorf("the caller's environment does not win: %q", s.Process.Env)
	}
	for _, p := range []Process{
		{Command: []string{"echo", "\xff"}},
		{Command: []string{"true"}, Env: []string{"KEY=\xff"}},
	} {
		if err := b.WriteSpec(p); err == nil || !strings.Contains(err.Error(), "not UTF-8") || strings.Contains(err.Error(), "\xff") {
			t.Errorf("%+v: got %v", p, err)
		}
	}
	if err := b.WriteSpec(Process{Command: []string{"no-such"}}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestMountDestinations(t *testing.T) {
	for _, dst := range []string{"", "/", "relative", "/a/../b", "/a/", "/usr/no/such", "/workspace/no/such"} {
		cfg := Config{ID: "test", IDs: NewIDs(1), Project: t.TempDir(), Mounts: []Mount{{Source: t.TempDir(), Destination: dst, ReadOnly: true}}}
		if os.Geteuid() == 0 {
			if b, err := New(cfg); err == nil {
				b.Close()
				t.Errorf("%q was taken", dst)
			}
			if _, err := os.Stat("/usr/no"); err == nil {
				t.Fatal("a directory was made on the host")
			}
		}
	}
}

func TestRootfs(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"bin", "etc/app", "opt", "var/lib/app"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"bin/tool": "#!", "etc/app/conf": "x", "etc/passwd": "evil", "etc/plain": "y"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/shadow", filepath.Join(root, "escape")); err != nil {
		t.Fatal(err)
	}
	b := world(t, Config{Rootfs: root})
	for _, p := range []string{"/bin/tool", "/etc/app/conf", "/etc/plain", "/opt", "/var/lib/app", "/etc/resolv.conf"} {
		if _, err := b.stat(p); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	for _, p := range []string{"/usr/bin/env", "/escape"} {
		if _, err := b.stat(p); err == nil {
			t.Errorf("%s is there", p)
		}
	}
	if data, err := b.root.ReadFile("etc/passwd"); err != nil || !strings.HasPrefix(string(data), "root:") {
		t.Errorf("passwd is not ours: %q, %v", data, err)
	}
}
