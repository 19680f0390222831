package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const noPreemption = "asyncpreemptoff=1"

// calm starts this program anew, in its own place, without asynchronous preemption. The
// signal by which Go's runtime interrupts a thread has the kernel write the vector
// registers to a stack for signals, where a piece of a value that was being copied then
// stays (measured 2026-11-23 on a loaded machine: in 3 of 30 runs of TestNothingLeaks). The
// runtime reads GODEBUG before main, and no //go:debug line knows this setting.
func calm() error {
	debug := os.Getenv("GODEBUG")
	if strings.Contains(debug, noPreemption) {
		// ps would say "exe"; that it does is no reason not to serve.
		_ = os.WriteFile("/proc/self/comm", []byte("secretd"), 0)
		return nil
	}
	if debug != "" {
		debug += ","
	}
	if err := os.Setenv("GODEBUG", debug+noPreemption); err != nil {
		return fmt.Errorf("start anew: %w", err)
	}
	return fmt.Errorf("start anew: %w", unix.Exec("/proc/self/exe", os.Args, os.Environ()))
}
