// Command superserve runs AI agents in a sandbox that never holds a real key.
package main

import (
	"os"
	"path/filepath"
	"strings"

	"gvisor.dev/gvisor/runsc/cli/maincli"

	"github.com/superserve/superserve/cli"
)

// main is three programs by the name it was started under: gVisor (so that one static file is all
// that a host needs), the cage's self-test, and the command line.
func main() {
	if strings.HasPrefix(filepath.Base(os.Args[0]), "runsc") {
		maincli.Main()
		return
	}
	os.Exit(cli.Main())
}
