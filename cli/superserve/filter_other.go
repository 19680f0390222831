//go:build !amd64

package main

import "gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"

// sentryFilters has none: they are made of this architecture's numbers of system calls, on a machine of it (go
// generate ./cli/superserve).
func sentryFilters() []precompiledseccomp.Program { return nil }

// goferFilters is as sentryFilters.
func goferFilters() []precompiledseccomp.Program { return nil }
