package cli

import (
	"strings"
	"time"

	"github.com/superserve/superserve/runtime/changes"
	"github.com/superserve/superserve/runtime/sandbox"
)

// afterwards looks at what a run that wrote to a folder of this machine has left there.
func (sh *shell) afterwards(cfg sandbox.Config, run string, began time.Time, f runFlags) {
	if !cfg.Workspace || cfg.Changes {
		return
	}
	armed, err := changes.Disarm(cfg.Dir, began)
	if err != nil {
		sh.warn("%s", escapeLine(err.Error()))
	}
	if len(armed) > 0 {
		sh.warn("took the set-uid bit from what the agent left: %s", escapeLine(strings.Join(armed[:min(len(armed), 5)], ", ")))
	}
}
