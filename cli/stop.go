package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/runtime/agent"
	"github.com/superserve/superserve/runtime/sandbox"
)

func (sh *shell) stopCommand() *cobra.Command {
	var grace string
	cmd := &cobra.Command{
		Use:   "stop RUN|AGENT",
		Short: "End a run: ask its agent, then insist",
		Args:  exactly("RUN or AGENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			patience, err := agent.ParseTimeout(grace)
			if err != nil {
				return fmt.Errorf("--time: %w", err)
			}
			return sh.stop(cmd.Context(), args[0], patience)
		},
	}
	cmd.Flags().StringVar(&grace, "time", "10s", "`TIME` that the agent has to end by itself")
	return cmd
}

// stop sends the run's supervisor SIGTERM, which it passes on to the agent; after the grace a second
// one, on which it ends the sandbox; and at last SIGKILL, which the kernel passes on to all its parts.
func (sh *shell) stop(ctx context.Context, id string, grace time.Duration) error {
	_, r, err := sh.findRun(id)
	if err != nil {
		return err
	}
	if !r.Running {
		return fmt.Errorf("run %s has ended already", r.ID)
	}
	// The descriptor stays this process's, whoever gets its number later.
	fd, err := unix.PidfdOpen(r.Supervisor, 0)
	if err != nil {
		return fmt.Errorf("stop %s: %w", r.ID, err)
	}
	defer unix.Close(fd)
	if _, again, err := sh.findRun(r.ID); err != nil || !again.Running {
		return fmt.Errorf("run %s has ended already", r.ID)
	}
	const insist = 5 * time.Second
	for _, step := range []struct {
		signal   unix.Signal
		patience time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGTERM, insist}, {unix.SIGKILL, insist}} {
		if err := unix.PidfdSendSignal(fd, step.signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop %s: %w", r.ID, err)
		}
		ended, err := sh.awaitEnd(ctx, r, step.patience)
		if err != nil {
			return err
		}
		if ended {
			sh.done("Stopped %s", r.ID)
			return nil
		}
	}
	return fmt.Errorf("run %s does not end", r.ID)
}

// awaitEnd waits until the run's lock is free: its supervisor holds it until nothing of the run is left.
func (sh *shell) awaitEnd(ctx context.Context, r sandbox.Record, patience time.Duration) (bool, error) {
	late := time.After(patience)
	for {
		if _, now, err := sh.findRun(r.ID); err != nil || !now.Running {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-late:
			return false, nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}
