package cli

import (
	"strings"
	"time"

	"github.com/superserve/superserve/runtime/changes"
	"github.com/superserve/superserve/runtime/sandbox"
)

// countChanges says what was kept apart and what to do with it.
func (sh *shell) countChanges(run string) {
	set, _, list, err := sh.changesOf(run)
	if err != nil {
		sh.warn("%s", escapeLine(err.Error()))
		return
	}
	set.Close()
	if len(list) == 0 {
		sh.note("nothing was changed")
		return
	}
	sh.note("%d changes were kept apart. See them, take them over:\n  superserve diff %s\n  superserve apply %s", len(list), run, run)
}

// afterwards looks at what a run that wrote to a folder of this machine has left there.
func (sh *shell) afterwards(cfg sandbox.Config, run string, began time.Time, f runFlags) {
	if cfg.Changes && !f.quiet && !f.asJSON {
		sh.countChanges(run)
	}
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
