package cli

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/journal"
)

const auditPruneLong = `Remove the audit logs of runs that began more than so many days ago and have ended. Each is verified first, and
stays if it is not what was written. That it is gone, and how many lines it had, stands in the signed list
of seals, so that "superserve audit verify" tells it from one that somebody else removed.`

// auditTime is how the name of a log begins: the start of its run.
const auditTime = "20060102T150405Z"

func (sh *shell) auditPruneCommand() *cobra.Command {
	var days int
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   "Remove old audit logs, and sign that they were removed",
		Long:    auditPruneLong,
		Example: `  superserve audit prune --days 90`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("days") {
				return usageError{cmd.CommandPath(), "missing --days N"}
			}
			if days < 0 {
				return usageError{cmd.CommandPath(), "--days: give a number of days, from 0"}
			}
			return sh.auditPrune(time.Now().AddDate(0, 0, -days))
		},
	}
	cmd.Flags().IntVar(&days, "days", 0, "remove logs of runs that began more than `N` days ago")
	return cmd
}

// auditPrune removes the logs of runs that began before a time.
func (sh *shell) auditPrune(before time.Time) error {
	if err := needRoot("superserve audit prune"); err != nil {
		return err
	}
	p, err := sh.places()
	if err != nil {
		return err
	}
	if err := sandbox.Sweep(p.state); err != nil {
		return err
	}
	dir := sandbox.AuditDir(p.state)
	key, err := journal.ReadKey(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("there is no audit log yet")
	}
	if err != nil {
		return err
	}
	found, err := journal.Verify(dir, key, func(log, _ string) bool { return startedBefore(log, before) })
	if err != nil {
		return err
	}
	if found.Fault != "" {
		sh.warn("%s", found.Fault)
		return errChanged
	}
	return sh.pruneLogs(dir, key, found.Logs)
}

// pruneLogs removes those that have ended and are whole.
func (sh *shell) pruneLogs(dir string, key *journal.Key, reports []journal.Report) error {
	gone, lines, faulty := 0, uint64(0), false
	for _, r := range reports {
		switch {
		case r.Pruned || !r.Ended && r.Fault == "":
			continue
		case r.Fault != "":
			sh.warn("%s stays: %s", r.Log, r.Fault)
			faulty = true
			continue
		}
		if err := journal.Prune(key, filepath.Join(dir, r.Log)); err != nil {
			return err
		}
		gone, lines = gone+1, lines+r.Lines
	}
	sh.done("%d logs with %d lines removed", gone, lines)
	if faulty {
		return errChanged
	}
	return nil
}

// startedBefore reports whether the run of a log began before a time. One whose name says no time did not.
func startedBefore(log string, before time.Time) bool {
	began, _, _ := strings.Cut(log, "-")
	at, err := time.Parse(auditTime, began)
	return err == nil && at.Before(before)
}
