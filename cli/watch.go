package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/journal"
)

const watchLong = `Follow a run from another terminal until it ends: what its supervisor has to say to you, which names the agent
connects to, its requests, and the names of the secrets that went with them. While an agent draws the whole
screen, nothing of this is printed there, and what the run has to ask is asked here: whether the agent may connect to a
name that its rules leave open, and where a secret may go that is bound to no host. RUN is a run or an agent; without
it, the run that began last.`

func (sh *shell) watchCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "watch [RUN|AGENT]",
		Short: "Follow what a run does on the network, and what there is to say of it",
		Long:  watchLong,
		Example: `  superserve watch
  superserve watch my-agent --json | jq 'select(.kind == "refused")'`,
		Args: atMostOne("RUN or AGENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			word := ""
			if len(args) > 0 {
				word = args[0]
			}
			return sh.watch(cmd.Context(), word, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object a line: notices, and the records of the audit log as they are")
	return cmd
}

// watch prints what a run has done so far, and goes on until it ends. Order is kept among notices and among records.
func (sh *shell) watch(ctx context.Context, word string, asJSON bool) error {
	p, r, err := sh.findRun(word)
	if err != nil {
		return err
	}
	records := &trail{state: p.state, word: r.ID, print: sh.auditText, readers: map[string]*journal.Reader{}}
	notes := &noticeReader{print: sh.noticeText}
	if asJSON {
		records.print, notes.print = sh.auditJSON, sh.noticeJSON
	}
	defer records.close()
	if notes.from, err = os.Open(sandbox.NoticesPath(p.state, r.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	defer notes.close()
	questions, stop := sh.attend(ctx, p.state, r.ID, asJSON)
	defer stop()
	for {
		// Asked before the rest: what comes before the end is then printed after it.
		_, now, err := sh.findRun(r.ID)
		ended := err != nil || !now.Running
		if _, err := records.round(); err != nil {
			return err
		}
		if err := notes.round(); err != nil {
			return err
		}
		if ended {
			if !asJSON && err == nil {
				sh.note("run %s of '%s' has ended: %s", now.ID, now.Agent, status(now))
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case q := <-questions:
			q.word <- sh.askTyped(q.ctx, q.prompt)
		case <-time.After(followInterval):
		}
	}
}

// noticeReader reads the notices of a run as they come. It is used by one goroutine.
type noticeReader struct {
	from  *os.File // nil: the run keeps none
	print func(line []byte, r sandbox.NoticeRecord) error
	rest  []byte // of a line that has no end yet
}

func (n *noticeReader) round() error {
	if n.from == nil {
		return nil
	}
	const most = 4 << 20 // the file is cut off long before
	grown, err := io.ReadAll(io.LimitReader(n.from, most))
	if err != nil {
		return fmt.Errorf("read notices: %w", err)
	}
	n.rest = append(n.rest, grown...)
	for {
		line, rest, whole := bytes.Cut(n.rest, []byte("\n"))
		if !whole {
			return nil
		}
		n.rest = rest
		var r sandbox.NoticeRecord
		if json.Unmarshal(line, &r) != nil {
			continue
		}
		if err := n.print(line, r); err != nil {
			return err
		}
	}
}

func (n *noticeReader) close() {
	if n.from != nil {
		n.from.Close()
	}
}

func (sh *shell) noticeText(_ []byte, r sandbox.NoticeRecord) error {
	_, err := fmt.Fprintf(sh.out, "%s  %s %s\n", r.Time.Local().Format(watchTime), sh.paint(sh.out, yellow, "note:"), escapeLine(r.Text))
	return err
}

// watchTime is how `audit` writes a time too.
const watchTime = "2006-01-02 15:04:05.000"

func (sh *shell) noticeJSON(line []byte, _ sandbox.NoticeRecord) error {
	return sh.auditJSON(line, auditRecord{})
}
