package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func set(ids ...int) (s unix.CPUSet) {
	for _, i := range ids {
		s.Set(i)
	}
	return s
}

func TestProcessors(t *testing.T) {
	for name, c := range map[string]struct {
		allowed unix.CPUSet
		cpu     float64
		on      unix.CPUSet
		claim   string
	}{
		"no limit":             {set(0, 1), 0, set(), ""},
		"all that there are":   {set(0, 1), 1.5, set(), ""},
		"more than there are":  {set(0, 1), 8, set(), ""},
		"the only one":         {set(3), 0.5, set(), ""},
		"a half of one":        {set(0, 1), 0.5, set(1), "1=0.5"},
		"one":                  {set(0, 1), 1, set(1), "1=1"},
		"a little more":        {set(0, 1, 2), 1.01, set(1, 2), "2=0.505 1=0.505"},
		"two of those allowed": {set(0, 2, 5, 900), 1.5, set(900, 5), "900=0.75 5=0.75"},
	} {
		on, claim := processors("/nothing", c.allowed, c.cpu)
		if on != c.on || claim != c.claim {
			t.Errorf("%s: got %v, %q, want %v, %q", name, on, claim, c.on, c.claim)
		}
	}
}

// Leaves are spread over the processors by what the others may use of each.
func TestClaims(t *testing.T) {
	parent := t.TempDir()
	for leaf, claim := range map[string]string{"a": "3=0.5", "b": "2=0.75 1=0.75", "c": "3=0.5 x 1 y=1 0=z", "d": ""} {
		path := filepath.Join(parent, leaf)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setxattr(path, claimed, []byte(claim), 0); err != nil {
			missing(t, err) // needs root, and a file system that has such attributes
		}
	}
	for cpu, want := range map[float64]string{0.5: "0=0.5", 2: "0=1 2=1", 3: "0=1 2=1 1=1"} {
		if _, got := processors(parent, set(0, 1, 2, 3), cpu); got != want {
			t.Errorf("%v of a processor: got %q, want %q", cpu, got, want)
		}
	}
}

// What is started in a leaf has its processors, and the thread that starts it has its own again.
func TestStartOnFewerProcessors(t *testing.T) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	if all.Count() < 2 {
		missing(t, "needs two processors")
	}
	agent, proxy := newLeaf(t, Limits{CPU: 0.5}), newNamedLeaf(t, name(t)+"-2", Limits{CPU: 0.25})
	proxy.Beside(agent)
	for _, l := range []*Leaf{agent, proxy} {
		cmd := start(t, l, "wait")
		var on, own unix.CPUSet
		if err := unix.SchedGetaffinity(cmd.Process.Pid, &on); err != nil {
			t.Fatal(err)
		}
		if err := unix.SchedGetaffinity(0, &own); err != nil {
			t.Fatal(err)
		}
		if on != agent.on || on.Count() != 1 || own != all {
			t.Errorf("the process is on %v, want %v; its starter on %v, want %v", on, agent.on, own, all)
		}
		cmd.Process.Kill()
	}
}
