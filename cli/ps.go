package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/runtime/sandbox"
)

func (sh *shell) psCommand() *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List the runs, what each has reached and what it cost",
		Long: `List the runs, and of each what its audit log says in short: the names that it has spoken to, how often
something was refused, how much its connections, those that have ended, have sent and received, and how many
tokens of Anthropic's and OpenAI's models it has used, with what they cost by list prices.`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error { return sh.ps(all, asJSON) },
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "list ended runs too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// psRow is one run of `ps --json`.
type psRow struct {
	sandbox.Record
	Status string `json:"status"`
	*reached
}

func (sh *shell) ps(all, asJSON bool) error {
	p, err := sh.places()
	if err != nil {
		return err
	}
	records, err := sandbox.List(p.state)
	if err != nil {
		return err
	}
	sums, err := reachedBy(p.state, records)
	if err != nil && !errors.Is(err, os.ErrPermission) {
		return err
	}
	list := []psRow{}
	for _, r := range records {
		if r.Running || all {
			list = append(list, psRow{r, status(r), sums[r.ID]})
		}
	}
	if asJSON {
		return sh.json(list)
	}
	rows := make([][]string, 0, len(list))
	for _, r := range list {
		rows = append(rows, []string{r.ID, r.Agent, r.Status, when(r.Started), lasted(r.Record), r.traffic(), r.cost(), r.cell(), strings.Join(r.Command, " ")})
	}
	return sh.table([]string{"RUN", "AGENT", "STATUS", "STARTED", "TIME", "OUT/IN", "TOKENS/COST", "REACHED", "COMMAND"}, rows)
}

// status says in one word, or a word and a number, where a run stands.
func status(r sandbox.Record) string {
	switch {
	case r.Running:
		return "running"
	case r.Result == nil:
		return string(sandbox.ReasonLost)
	case r.Result.Reason == sandbox.ReasonExit:
		return fmt.Sprintf("exit %d", r.Result.Code)
	}
	return string(r.Result.Reason)
}

// lasted is how long a run has gone on, or went on.
func lasted(r sandbox.Record) string {
	end := r.Ended
	if end.IsZero() && !r.Running {
		return "-"
	}
	if end.IsZero() {
		end = time.Now()
	}
	return end.Sub(r.Started).Round(time.Second).String()
}

// findRun returns the run that a word means, see pickRun.
func (sh *shell) findRun(word string) (places, sandbox.Record, error) {
	p, err := sh.places()
	if err != nil {
		return p, sandbox.Record{}, err
	}
	records, err := sandbox.List(p.state)
	if err != nil {
		return p, sandbox.Record{}, err
	}
	r, err := pickRun(records, word)
	return p, r, err
}

// pickRun takes of runs, oldest first, the one with an id. An agent's name stands for its run that began last, one that
// is running before one that has ended; "" for that of all agents, and the beginning of an id for the id.
func pickRun(records []sandbox.Record, word string) (sandbox.Record, error) {
	unknown := unknownError{kind: "run or agent", name: word, list: "superserve ps --all"}
	var last *sandbox.Record
	var begin []sandbox.Record
	for i, r := range records {
		if r.ID == word {
			return r, nil
		}
		if (word == "" || r.Agent == word) && (last == nil || r.Running || !last.Running) {
			last = &records[i]
		}
		if strings.HasPrefix(r.ID, word) {
			begin = append(begin, r)
		}
		unknown.known = append(unknown.known, r.ID, r.Agent)
	}
	switch {
	case last != nil:
		return *last, nil
	case word == "":
		return sandbox.Record{}, errors.New("there is no run yet")
	case len(begin) == 0:
		return sandbox.Record{}, unknown
	case len(begin) > 1:
		return sandbox.Record{}, errors.New("more than one run begins with '" + escapeLine(word) + "'")
	}
	return begin[0], nil
}
