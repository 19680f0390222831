package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/journal"
)

const auditLong = `Print what agents did on the network: a line for each connection, each request that was looked into, and
each use of a secret, oldest run first. A path is shown without its query; no header, body, placeholder
or key is ever in it.`

func (sh *shell) auditCommand() *cobra.Command {
	var asJSON, follow bool
	cmd := &cobra.Command{
		Use:   "audit [RUN|AGENT]",
		Short: "Print what agents did on the network, and verify that the record is whole",
		Long:  auditLong,
		Example: `  superserve audit my-agent
  superserve audit --follow --json | jq 'select(.verdict == "refuse")'
  superserve audit verify`,
		Args: atMostOne("RUN or AGENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return sh.audit(cmd.Context(), strings.Join(args, ""), asJSON, follow)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the records as they are, a JSON object a line")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes, until the run ends or for ever")
	cmd.AddCommand(sh.auditVerifyCommand(), sh.auditPruneCommand())
	return cmd
}

// trail prints the audit logs under one state. It is used by one goroutine.
type trail struct {
	state   string
	word    string // a run, the beginning of one, an agent, or "" for all
	print   func(line []byte, r auditRecord) error
	damaged int // lines that are no records
	readers map[string]*journal.Reader
	shown   bool
}

// auditRecord is what of a line is printed in words. The names are those of proxy/audit.
type auditRecord struct {
	Time     time.Time `json:"time"`
	Run      string    `json:"run"`
	Agent    string    `json:"agent"`
	Kind     string    `json:"kind"`
	Name     string    `json:"name"`
	Addr     string    `json:"addr"`
	Port     uint16    `json:"port"`
	Verdict  string    `json:"verdict"`
	Rule     string    `json:"rule"`
	Reason   string    `json:"reason"`
	Secret   string    `json:"secret"`
	Method   string    `json:"method"`
	Path     string    `json:"path"`
	Status   int       `json:"status"`
	Sent     int64     `json:"sent"`
	Received int64     `json:"received"`
	Model    string    `json:"model"`
	Tokens   int64     `json:"tokens"`
	Micros   int64     `json:"micros"`
	Millis   float64   `json:"ms"`
}

func (sh *shell) audit(ctx context.Context, word string, asJSON, follow bool) error {
	p, err := sh.places()
	if err != nil {
		return err
	}
	t := &trail{state: p.state, word: word, print: sh.auditText, readers: map[string]*journal.Reader{}}
	if asJSON {
		t.print = sh.auditJSON
	}
	defer t.close()
	for {
		ended, err := t.round()
		if err != nil {
			return err
		}
		if !follow || ended {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(followInterval):
		}
	}
	if t.damaged > 0 {
		sh.warn("%d lines are no records: see `superserve audit verify`", t.damaged)
	}
	if word != "" && !t.shown {
		return unknownError{kind: "run or agent with a record", name: word, list: "superserve ps --all"}
	}
	return nil
}

// round prints what has come. ended says that the word is one run, and nothing more will come.
func (t *trail) round() (ended bool, err error) {
	running, err := runningRuns(t.state) // asked first: what comes before the end is then read
	if err != nil {
		return false, err
	}
	if _, err := os.ReadDir(sandbox.AuditDir(t.state)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err // Glob says nothing of a directory that is closed to us
	}
	logs, err := sandbox.AuditLogs(t.state)
	if err != nil {
		return false, err
	}
	for _, log := range logs {
		if err := t.read(log, !running[log.Run]); err != nil {
			return false, err
		}
		ended = ended || log.Run == t.word && !running[log.Run]
	}
	return ended, nil
}

func runningRuns(state string) (map[string]bool, error) {
	records, err := sandbox.List(state)
	if err != nil {
		return nil, err
	}
	running := map[string]bool{}
	for _, r := range records {
		running[r.ID] = r.Running
	}
	return running, nil
}

func (t *trail) read(log sandbox.AuditLog, dead bool) error {
	r := t.readers[log.Log]
	if r == nil {
		var err error
		if r, err = journal.OpenReader(log.Log, log.Tail); err != nil {
			return err
		}
		t.readers[log.Log] = r
	}
	return r.Each(dead, func(line []byte) error {
		var rec auditRecord
		if json.Unmarshal(line, &rec) != nil {
			t.damaged++
			return nil
		}
		if !matches(t.word, log.Run, rec.Agent) {
			return nil
		}
		t.shown = true
		return t.print(line, rec)
	})
}

// shortest is how much of a run's id stands for it where an agent's name may stand too.
const shortest = 4

// matches reports whether a word means a run of an agent.
func matches(word, run, agent string) bool {
	return word == "" || word == agent || len(word) >= shortest && strings.HasPrefix(run, word)
}

func (t *trail) close() {
	for _, r := range t.readers {
		r.Close()
	}
}

// auditJSON prints a line as it is; on a terminal what is not printable is escaped.
func (sh *shell) auditJSON(line []byte, _ auditRecord) error {
	text := string(line)
	if isTerminal(sh.out) {
		text = escapeLine(text)
	}
	_, err := io.WriteString(sh.out, text+"\n")
	return err
}

// auditText prints one record for a person.
func (sh *shell) auditText(_ []byte, r auditRecord) error {
	c := green
	if r.Verdict != "allow" {
		c = red
	}
	_, err := fmt.Fprintf(sh.out, "%s  %s  %s  %s  %s\n", r.Time.Local().Format(watchTime), escapeLine(r.Run), escapeLine(r.Agent),
		sh.paint(sh.out, c, fmt.Sprintf("%-6s", escapeLine(r.Verdict))), escapeLine(r.sentence()))
	return err
}

// sentence says what was done, to what, and how it ended.
func (r auditRecord) sentence() string {
	host := r.Name
	if host == "" {
		host = r.Addr
	}
	words := []string{net.JoinHostPort(host, strconv.Itoa(int(r.Port)))}
	if r.Method != "" {
		words = []string{r.Method, words[0] + r.Path}
	}
	if r.Kind == "credential" {
		words = append([]string{r.Secret, "to"}, words...)
		return strings.Join(words, " ")
	}
	if r.Kind == "usage" {
		return strings.Join(append([]string{r.Secret, "paid", tokens(r.Tokens), "tokens of", r.Model, dollars(r.Micros), "for"}, words...), " ")
	}
	if r.Status != 0 {
		words = append(words, strconv.Itoa(r.Status))
	}
	if r.Reason != "" {
		words = append(words, r.Reason)
	}
	if r.Rule != "" && r.Verdict == "refuse" {
		words = append(words, "("+r.Rule+")")
	}
	if r.Sent+r.Received > 0 {
		words = append(words, fmt.Sprintf("%s sent, %s received", size(r.Sent), size(r.Received)))
	}
	if r.Millis >= 1 {
		words = append(words, fmt.Sprintf("%.0f ms", r.Millis))
	}
	return strings.Join(words, " ")
}
