// Command superserve runs AI agents in a sandbox that never holds a real key.
package main

import (
	"os"
	"path/filepath"
	"strings"

	"gvisor.dev/gvisor/runsc/cli/maincli"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/superserve/superserve/cli"
	"github.com/superserve/superserve/runtime/sandbox"
)

// main is three programs by the name it was started under: gVisor (so that one static file is all
// that a host needs), the cage's self-test, and the command line.
func main() {
	switch {
	case isRunsc(os.Args[0]):
		allowNoSignal()
		useFilters()
		maincli.Main()
	case os.Args[0] == sandbox.SelfTestName:
		os.Exit(sandbox.SelfTestMain())
	default:
		os.Exit(cli.Main())
	}
}

// isRunsc reports whether this process is the gVisor that the binary contains. gVisor names its children
// runsc-gofer and runsc-sandbox, but starts its /proc unmounter under the bare specutils.ExePath; taken for
// a command line, it would leave the sentry with a broken pipe and no agent.
func isRunsc(arg0 string) bool {
	return arg0 == specutils.ExePath || strings.HasPrefix(filepath.Base(arg0), "runsc")
}
