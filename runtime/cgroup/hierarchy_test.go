package cgroup

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFind(t *testing.T) {
	const root = "20 1 8:1 / / rw - ext4 /dev/sda rw\n"
	tests := map[string]struct {
		mounts, own string
		want        Hierarchy
		err         error
	}{
		"it finds cgroup2 alone": {
			mounts: root + "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate",
			own:    "0::/user.slice/session-1.scope",
			want:   Hierarchy{Root: "/sys/fs/cgroup", V1: map[string]string{}},
		},
		"it finds the controllers of a hybrid host below its own groups": {
			mounts: root + "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
				"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n" +
				"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
			own: "4:memory:/build/7\n1:cpu,cpuacct:/\n0::/",
			want: Hierarchy{Root: "/sys/fs/cgroup/unified", V1: map[string]string{
				"cpu": "/sys/fs/cgroup/cpu,cpuacct", "memory": "/sys/fs/cgroup/memory/build/7"}},
		},
		"it takes off the part of the path that a container does not see": {
			mounts: "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
			own: "4:memory:/docker/abc/agent",
			want: Hierarchy{Root: "/sys/fs/cgroup/unified", V1: map[string]string{
				"memory": "/sys/fs/cgroup/memory/agent"}},
		},
		"it takes the mount point when its own group is elsewhere": {
			mounts: "35 31 0:32 /docker/abc /m rw - cgroup cgroup rw,memory\n41 31 0:38 / /u rw - cgroup2 cgroup2 rw",
			own:    "4:memory:/other",
			want:   Hierarchy{Root: "/u", V1: map[string]string{"memory": "/m"}},
		},
		"it reads a mount point with a space": {
			mounts: `41 31 0:38 / /my\040groups rw - cgroup2 cgroup2 rw`,
			want:   Hierarchy{Root: "/my groups", V1: map[string]string{}},
		},
		"it says so when there is no cgroup2": {
			mounts: root + "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory", err: ErrNoCgroup2,
		},
		"it is not confused by lines it does not know": {mounts: "\n-\n - \na b c - d\n", err: ErrNoCgroup2},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := find(strings.NewReader(test.mounts), strings.NewReader(test.own))
			if !errors.Is(err, test.err) {
				t.Fatalf("find: got error %v, want %v", err, test.err)
			}
			if diff := cmp.Diff(test.want, got); err == nil && diff != "" {
				t.Errorf("find (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFindHere(t *testing.T) {
	h, err := Find()
	if errors.Is(err, ErrNoCgroup2) {
		missing(t, "needs cgroup2")
	}
	if err != nil || h.Root == "" {
		t.Fatalf("Find: got %+v, %v", h, err)
	}
}
