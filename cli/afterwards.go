package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/superserve/superserve/runtime/agent"
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

// warnOfManifest says that a run has written to the file which says what the next one may: an agent that can must not
// grant itself more unnoticed.
func (sh *shell) warnOfManifest(dir string, began time.Time) {
	info, err := os.Lstat(filepath.Join(dir, agent.ManifestName))
	if err == nil && changed(info).After(began) {
		sh.warn("%s was changed during the run: read it before the next one, it says what the agent may do", agent.ManifestName)
	}
}

// changed is when a file was last written to or renamed, by the kernel's clock alone: an agent can set any other time.
func changed(info fs.FileInfo) time.Time {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.ModTime()
	}
	return time.Unix(st.Ctim.Unix())
}

// afterwards looks at what a run that wrote to a folder of this machine has left there.
func (sh *shell) afterwards(cfg sandbox.Config, run string, began time.Time, f runFlags) {
	if cfg.Changes && !f.quiet && !f.asJSON {
		sh.countChanges(run)
	}
	if !cfg.Workspace || cfg.Changes {
		return
	}
	sh.warnOfManifest(cfg.Dir, began)
	armed, err := changes.Disarm(cfg.Dir, began)
	if err != nil {
		sh.warn("%s", escapeLine(err.Error()))
	}
	if len(armed) > 0 {
		sh.warn("took the set-uid bit from what the agent left: %s", escapeLine(strings.Join(armed[:min(len(armed), 5)], ", ")))
	}
}
