package main

import (
	_ "unsafe" // for go:linkname

	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	sentry "gvisor.dev/gvisor/runsc/boot/filter"
	gofer "gvisor.dev/gvisor/runsc/fsgofer/filter"
)

//go:generate go test -count=1 -timeout=30m -run ^TestFilters$ -update .

// sentryTable and goferTable are gVisor's own tables of system call filters by what they are for. gVisor's releases fill
// them when they are built; its Go module leaves them empty, and each start of a sandbox then compiles its filters anew
// while the agent waits: 38 ms of 160 for a sentry with the host's network (2026-11-23). Nothing exported leads there.
//
//go:linkname sentryTable gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var sentryTable map[string]precompiledseccomp.Program

//go:linkname goferTable gvisor.dev/gvisor/runsc/fsgofer/filter.precompiledPrograms
var goferTable map[string]precompiledseccomp.Program

// useFilters gives gVisor the filters that it would compile itself, which TestFilters compares instruction by
// instruction. It is to be called before gVisor starts. What is not among them gVisor goes on to compile.
func useFilters() {
	sentry.ListPrecompiled() // makes the table, once and for all
	for _, p := range sentryFilters() {
		sentryTable[p.Name] = p
	}
	gofer.ListPrecompiled()
	for _, p := range goferFilters() {
		goferTable[p.Name] = p
	}
}
