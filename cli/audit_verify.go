package cli

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/journal"
)

const auditVerifyLong = `Check that the audit logs are what was written: no line changed, cut off, put in or moved, no log gone, and
as many lines as the signed seals say. The last line names the list of seals; whoever keeps it elsewhere
and gives it back with --head learns too whether this machine's root has put an older state in place.`

// errChanged means that an audit log is not what was written.
var errChanged = errors.New("the audit trail is not what was written")

// headDigits is the length of the name of a list of seals.
const headDigits = 32

func (sh *shell) auditVerifyCommand() *cobra.Command {
	var asJSON bool
	var head string
	cmd := &cobra.Command{
		Use:   "verify [RUN|AGENT]",
		Short: "Check that no audit log was changed, cut or reordered",
		Long:  auditVerifyLong,
		Args:  atMostOne("RUN or AGENT"),
		RunE: func(_ *cobra.Command, args []string) error {
			return sh.auditVerify(strings.Join(args, ""), head, asJSON)
		},
	}
	cmd.Flags().StringVar(&head, "head", "", "the list of seals must contain the one that `HEX` names")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// auditFindings is all of a verification.
type auditFindings struct {
	journal.Findings
	Secretd *journal.Report `json:",omitempty"` // of secretd's own log; nil when it has none
}

func (sh *shell) auditVerify(word, head string, asJSON bool) error {
	if err := needRoot("superserve audit verify"); err != nil {
		return err
	}
	head = strings.ToLower(head)
	if _, err := hex.DecodeString(head); err != nil || head != "" && len(head) != headDigits {
		return usageError{"superserve audit verify", fmt.Sprintf("--head: give the %d digits and letters that a verification ended with", headDigits)}
	}
	p, err := sh.places()
	if err != nil {
		return err
	}
	if err := sandbox.Sweep(p.state); err != nil { // ends the logs of supervisors that were killed
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
	found, err := findAudit(p.state, key, word)
	if err != nil {
		return err
	}
	if head != "" {
		if ok, err := journal.Has(dir, key, head); err != nil {
			return err
		} else if !ok {
			found.Fault = "the list of seals never had that head, or was put back to before it"
		}
	}
	if asJSON {
		err = sh.json(found)
	} else {
		err = sh.showFindings(found)
	}
	if err == nil && !found.good() {
		err = errChanged
	}
	return err
}

func findAudit(state string, key *journal.Key, word string) (auditFindings, error) {
	var found auditFindings
	var err error
	found.Findings, err = journal.Verify(sandbox.AuditDir(state), key, func(log, agent string) bool {
		_, run, _ := strings.Cut(strings.TrimSuffix(log, journal.LogSuffix), "-")
		return matches(word, run, agent)
	})
	if err != nil || word != "" {
		return found, err
	}
	log, list := sandbox.SecretdSeals(state)
	r, err := journal.VerifySealed(log, list, key)
	if errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	found.Secretd = &r
	return found, err
}

func (f auditFindings) good() bool { return f.Good() && (f.Secretd == nil || f.Secretd.Fault == "") }

func (sh *shell) showFindings(f auditFindings) error {
	reports, lines := f.Logs, uint64(0)
	if f.Secretd != nil {
		r := *f.Secretd
		r.Log, r.Agent = "secretd", "-"
		reports = append(reports[:len(reports):len(reports)], r)
	}
	rows := make([][]string, 0, len(reports))
	for _, r := range reports {
		lines += r.Lines
		state := "whole"
		switch {
		case r.Fault != "":
			state = r.Fault
		case r.Pruned:
			state = "removed by audit prune"
		case !r.Ended && r.Log != "secretd":
			state = "whole so far"
		}
		rows = append(rows, []string{strings.TrimSuffix(r.Log, journal.LogSuffix), r.Agent, fmt.Sprint(r.Lines), fmt.Sprint(r.Sealed), state})
	}
	if err := sh.table([]string{"LOG", "AGENT", "LINES", "SEALED", "STATE"}, rows); err != nil {
		return err
	}
	if f.Fault != "" {
		sh.warn("%s", f.Fault)
	}
	if f.good() {
		sh.done("%d logs, %d lines, %d seals; head %s", len(reports), lines, f.Seals, f.Head)
	}
	return nil
}
