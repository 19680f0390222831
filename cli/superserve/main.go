// Command superserve runs AI agents in a sandbox that never holds a real key.
package main

import (
	"os"
	"path/filepath"
	"strings"

	"gvisor.dev/gvisor/runsc/cli/maincli"
)

func main() {
	if strings.HasPrefix(filepath.Base(os.Args[0]), "runsc") {
		maincli.Main()
		return
	}
}
