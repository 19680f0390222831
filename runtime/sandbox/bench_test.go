package sandbox_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/superserve/superserve/runtime/runsc/runsctest"
	"github.com/superserve/superserve/runtime/sandbox"
)

// BenchmarkStart compares a whole run of true with runsc run alone: the same gVisor with the same flags over an empty
// bundle, in no cage. The two alternate, so that a busy machine slows both.
func BenchmarkStart(b *testing.B) {
	runsctest.Root(b)
	bin := runsctest.Binary(b)
	state := b.TempDir()
	bare := bareBundle(b)
	runBare := func() {
		cmd := exec.Command(bin, "--root="+filepath.Join(bare, "state"), "--network=host", "--ignore-cgroups",
			"--overlay2=root:dir="+bare, "--gofer-network-namespace=new", "run", "--bundle="+bare, "bare")
		cmd.Args[0] = "runsc"
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("runsc run: %v: %s", err, out)
		}
	}
	runOurs := func() {
		r, err := sandbox.Run(context.Background(), sandbox.Config{Binary: bin, State: state, Command: []string{"/usr/bin/true"}})
		if err != nil || r.Code != 0 {
			b.Fatalf("got %+v, %v", r, err)
		}
	}
	var ours, alone []float64
	for b.Loop() {
		alone = append(alone, milliseconds(runBare))
		ours = append(ours, milliseconds(runOurs))
	}
	slices.Sort(alone)
	slices.Sort(ours)
	// The quickest of each says most on a machine that does other things too.
	b.ReportMetric(ours[0], "ms-run-min")
	b.ReportMetric(alone[0], "ms-runsc-min")
	b.ReportMetric(ours[0]/alone[0], "ratio-min")
	b.ReportMetric(ours[len(ours)/2]/alone[len(alone)/2], "ratio-median")
}

// bareBundle is the smallest bundle that runs true: the host's /usr by links, a user namespace, no network of its own.
func bareBundle(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("/tmp", "bare")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	root := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(filepath.Join(root, "usr"), 0o755); err != nil {
		b.Fatal(err)
	}
	for _, d := range []string{"proc", "dev", "sys", "tmp"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	for _, l := range []string{"bin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+l, filepath.Join(root, l)); err != nil {
			b.Fatal(err)
		}
	}
	spec := `{"ociVersion":"1.1.0","process":{"user":{"uid":0,"gid":0},"args":["/usr/bin/true"],"env":["PATH=/usr/bin"],"cwd":"/",
		"noNewPrivileges":true,"capabilities":{}},"root":{"path":"` + root + `"},
		"mounts":[{"destination":"/proc","type":"proc","source":"proc"},
			{"destination":"/usr","type":"bind","source":"/usr","options":["rbind","ro"]}],
		"linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"ipc"},{"type":"uts"},{"type":"user"}],
		"uidMappings":[{"containerID":0,"hostID":1879048192,"size":65536}],
		"gidMappings":[{"containerID":0,"hostID":1879048192,"size":65536}]}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(spec), 0o644); err != nil {
		b.Fatal(err)
	}
	return dir
}

func milliseconds(f func()) float64 {
	from := time.Now()
	f()
	return float64(time.Since(from).Microseconds()) / 1e3
}
