package cgroup

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// On cgroup1 no group may have more processors than one above it; cgroup2 takes any number, and the least holds.
func TestQuotaAboveTheParents(t *testing.T) {
	h := hierarchy(t)
	if h.V1["cpu"] == "" {
		return
	}
	h.V1 = maps.Clone(h.V1)
	group := filepath.Join(h.V1["cpu"], name(t))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Remove(filepath.Join(group, parent))
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	})
	if err := writeFile(filepath.Join(group, "cpu.cfs_quota_us"), "50000"); err != nil {
		t.Fatal(err)
	}
	h.V1["cpu"] = group
	for cpu, want := range map[float64]error{0.4: nil, 0.6: ErrQuota} {
		l, err := New(h, name(t), Limits{CPU: cpu})
		if !errors.Is(err, want) {
			t.Errorf("%v processors, where the group above has half of one: got %v, want %v", cpu, err, want)
		}
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
