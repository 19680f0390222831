package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/superserve/superserve/secretd/api"
)

// raw is a body that is no JSON.
type raw []byte

func contentType(body any) string {
	if _, ok := body.(raw); ok {
		return "application/octet-stream"
	}
	return "application/json"
}

// atOnce is how many parts of a snapshot are under way at once: a store that writes to three disks before it answers
// is waited for, not busy.
const atOnce = 4

func agentPath(agent string) string { return "/v1/agents/" + url.PathEscape(agent) }

func snapshotPath(agent, snapshot string) string {
	return agentPath(agent) + "/snapshots/" + url.PathEscape(snapshot)
}

// Agents returns the agents in the store that secretd shares with other hosts, by name. The error of this and of every
// other verb about agents wraps api.ErrLocal where secretd has a store of its own.
func (c *Client) Agents(ctx context.Context) ([]api.Agent, error) {
	var reply api.AgentsReply
	err := c.call(ctx, http.MethodGet, "/v1/agents", nil, &reply)
	return reply.Agents, err
}

// Agent returns one agent. The error wraps api.ErrNotFound, or api.ErrDamaged where the store was changed.
func (c *Client) Agent(ctx context.Context, name string) (api.Agent, error) {
	var a api.Agent
	return a, c.call(ctx, http.MethodGet, agentPath(name), nil, &a)
}

// DeleteAgent takes an agent away from every host. The error wraps api.ErrNotFound.
func (c *Client) DeleteAgent(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, agentPath(name), nil, nil)
}

// Deploy puts a snapshot into the store and makes it the agent's, wholly or not at all; with an error of api.ErrUnavailable
// it may have become so. what describes the bytes of from.
func (c *Client) Deploy(ctx context.Context, name string, what api.Deployment, from io.ReaderAt) (api.Agent, error) {
	var begun api.SnapshotReply
	if err := c.call(ctx, http.MethodPost, agentPath(name)+"/snapshots", what, &begun); err != nil {
		return api.Agent{}, err
	}
	path := snapshotPath(name, begun.Snapshot)
	err := each(ctx, what.Parts(), func(ctx context.Context, n int) error {
		part := make(raw, what.PartLength(n))
		if _, err := from.ReadAt(part, int64(n)*api.PartSize); err != nil {
			return fmt.Errorf("read snapshot: %w", err)
		}
		return c.call(ctx, http.MethodPut, fmt.Sprintf("%s/parts/%d", path, n), part, nil)
	})
	var a api.Agent
	if err == nil {
		return a, c.call(ctx, http.MethodPost, path, nil, &a)
	}
	// The parts would lie there for an hour; the daemon finds them too when this does not reach it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_ = c.call(ctx, http.MethodDelete, path, nil, nil)
	return a, err
}

// Fetch writes the snapshot of an agent, as Agent returned it, into to. The error wraps api.ErrNotFound when the agent
// was deployed again or deleted meanwhile, and api.ErrDamaged. Each part is checked by secretd, the whole is not.
func (c *Client) Fetch(ctx context.Context, a api.Agent, to io.WriterAt) error {
	if a.Size < 1 || a.Size > api.MaxSnapshot {
		return fmt.Errorf("fetch agent %q: %w: its size is %d", a.Name, api.ErrInvalid, a.Size)
	}
	return each(ctx, a.Parts(), func(ctx context.Context, n int) error {
		var part raw
		if err := c.call(ctx, http.MethodGet, fmt.Sprintf("%s/parts/%d", snapshotPath(a.Name, a.Snapshot), n), nil, &part); err != nil {
			return err
		}
		if len(part) != a.PartLength(n) {
			return fmt.Errorf("fetch agent %q: part %d has %d bytes: %w", a.Name, n, len(part), api.ErrDamaged)
		}
		_, err := to.WriteAt(part, int64(n)*api.PartSize)
		return err
	})
}

// each calls do for 0 to n-1, several at once, until one fails. It returns the first error.
func each(ctx context.Context, n int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wait sync.WaitGroup
	for range min(atOnce, n) {
		wait.Go(func() {
			for i := range next {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	wait.Wait()
	return context.Cause(ctx)
}
