package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/runtime/sandbox"
)

// followInterval is how often a log that grows is looked at.
const followInterval = 100 * time.Millisecond

func (sh *shell) logsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs RUN|AGENT",
		Short: "Print what an agent has written",
		Long: `Print what an agent has written, its standard output and its standard error each to ours. On a terminal
what is not printable is escaped; into a file or a pipe it goes as it is.`,
		Args: exactly("RUN or AGENT"),
		RunE: func(cmd *cobra.Command, args []string) error { return sh.logs(cmd.Context(), args[0], follow) },
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the run ends")
	return cmd
}

func (sh *shell) logs(ctx context.Context, id string, follow bool) error {
	p, r, err := sh.findRun(id)
	if err != nil {
		return err
	}
	dir := sandbox.RunDir(p.state, r.ID)
	var logs []*logReader
	for name, to := range map[string]io.Writer{"stdout.log": sh.out, "stderr.log": sh.err} {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("run %s kept no logs", r.ID)
		}
		if err != nil {
			return err
		}
		defer f.Close()
		logs = append(logs, &logReader{from: f, to: to, escape: isTerminal(to)})
	}
	for {
		// Asked before the copy: what is written before the end is then copied after it.
		_, r, err := sh.findRun(r.ID)
		ended := err != nil || !r.Running
		for _, l := range logs {
			if err := l.copy(); err != nil {
				return err
			}
		}
		if ended || !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(followInterval):
		}
	}
}

// logReader copies what a file has grown by.
type logReader struct {
	from   io.Reader
	to     io.Writer
	escape bool
	rest   []byte // of a line that has no end yet, so that no character is cut in two
}

func (l *logReader) copy() error {
	if !l.escape {
		_, err := io.Copy(l.to, l.from)
		return err
	}
	const chunk = 64 << 10
	buf := make([]byte, chunk)
	for {
		n, err := l.from.Read(buf)
		l.rest = append(l.rest, buf[:n]...)
		if i := bytes.LastIndexByte(l.rest, '\n') + 1; i > 0 || len(l.rest) > chunk {
			if i == 0 {
				i = len(l.rest)
			}
			if _, err := io.WriteString(l.to, escapeText(string(l.rest[:i]))); err != nil {
				return err
			}
			l.rest = append(l.rest[:0], l.rest[i:]...)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
