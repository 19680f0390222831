package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/superserve/superserve/bpf"
	"github.com/superserve/superserve/runtime/agent"
	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/runtime/sandbox"
)

// check judges the flags and the machine before anything is done: a folder that is run is deployed first,
// and a run that cannot be must not leave that behind.
func (f *runFlags) check() error {
	var (
		cfg  sandbox.Config
		none agent.Manifest
	)
	err := errors.Join(f.limits(&cfg), f.reach(&cfg), f.environment(&cfg, &none), f.mount(&cfg, &agent.Agent{}, &none),
		checkFolder("rootfs", f.rootfs), checkFolder("workspace", f.workspace))
	if err != nil {
		return err
	}
	if err := bpf.Supported(); err != nil {
		return err
	}
	_, err = cgroup.Find()
	return err
}

// checkFolder wants a folder under a flag that was given.
func checkFolder(name, dir string) error {
	if dir == "" {
		return nil
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a folder", dir)
	}
	if err != nil {
		return fmt.Errorf("--%s: %w", name, err)
	}
	return nil
}
