package secretd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/locked"
)

// Limits of the sockets. Sizes are in bytes.
const (
	maxHead    = 8 << 10
	readBuffer = 4 << 10
	maxBody    = 1 << 20
	maxSetBody = 24 << 20 // MaxSecrets values in base64
	maxConns   = 128
	// exchangeTimeout bounds one exchange, from its first byte to its last.
	exchangeTimeout = 10 * time.Second
)

// Serve answers on all sockets until ctx ends or one of them fails, and closes them. It
// returns nil when ctx ended.
func (d *Daemon) Serve(ctx context.Context, s *Sockets) error {
	doors := map[net.Listener]*door{
		s.Admin:  newDoor(d.log, d.routes(), s.identifyAdmin),
		s.Resume: newDoor(d.log, d.resumeRoutes(), identifyPeer),
	}
	if s.Remote != nil {
		doors[s.Remote] = newDoor(d.log, d.remoteRoutes(), d.cfg.Remote.identify)
	}
	if d.depot != nil {
		d.wait.Go(d.tendAgents)
	}
	failed := make(chan error, len(doors))
	var wait sync.WaitGroup
	for l, at := range doors {
		wait.Go(func() { failed <- at.serve(l) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	case err = <-d.fatal:
	}
	closed := s.Close()
	wait.Wait()
	for _, at := range doors {
		at.stop()
	}
	return errors.Join(err, closed)
}

// verb answers one request. Its reply is JSON, unless it says more.
type verb func(ctx context.Context, c *exchange) (any, error)

// exchange is one request that was read whole.
type exchange struct {
	*http.Request
	to   route
	who  caller
	body []byte // wiped after the verb
	conn net.Conn

	send     *os.File       // goes out beside the reply, and is closed
	takeover func(net.Conn) // gets the connection after "switching protocols", and owns it
}

// decode reads the body strictly: an unknown field is of another version.
func (c *exchange) decode(into any) error {
	if err := json.Unmarshal(c.body, into); err != nil {
		// The text of a JSON error can quote the body.
		return fmt.Errorf("request is not what this verb takes: %w", api.ErrInvalid)
	}
	return nil
}

// route is a verb and how long its body may be.
type route struct {
	verb verb
	most int64
}

func (d *Daemon) routes() map[string]route {
	return map[string]route{
		"GET /v1/health":                                {d.health, 0},
		"GET /v1/agents/{agent}/secrets":                {d.list, 0},
		"PUT /v1/agents/{agent}/secrets":                {d.set, maxSetBody},
		"DELETE /v1/agents/{agent}/secrets/{name}":      {d.remove, 0},
		"PUT /v1/agents/{agent}/secrets/{name}/binding": {d.bind, maxBody},
		"PUT /v1/runs/{run}/secrets/{name}/binding":     {d.bindRun, maxBody},
		"POST /v1/grants":                               {d.grant, maxBody},

		"GET /v1/agents":                                           {d.listAgents, 0},
		"GET /v1/agents/{agent}":                                   {d.getAgent, 0},
		"DELETE /v1/agents/{agent}":                                {d.deleteAgent, 0},
		"POST /v1/agents/{agent}/snapshots":                        {d.beginSnapshot, maxBody},
		"POST /v1/agents/{agent}/snapshots/{snapshot}":             {d.commitSnapshot, 0},
		"DELETE /v1/agents/{agent}/snapshots/{snapshot}":           {d.abortSnapshot, 0},
		"PUT /v1/agents/{agent}/snapshots/{snapshot}/parts/{part}": {d.putPart, api.PartSize},
		"GET /v1/agents/{agent}/snapshots/{snapshot}/parts/{part}": {d.getPart, 0},
	}
}

// remoteRoutes are the admin verbs without grants, and without what gives anything out that
// was put in: agents' files.
func (d *Daemon) remoteRoutes() map[string]route {
	routes := d.routes()
	delete(routes, "POST /v1/grants")
	delete(routes, "GET /v1/agents/{agent}/snapshots/{snapshot}/parts/{part}")
	return routes
}

func (d *Daemon) resumeRoutes() map[string]route {
	return map[string]route{"POST /v1/resume": {d.resume, maxHead}}
}

func unknownVerb(context.Context, *exchange) (any, error) {
	return nil, fmt.Errorf("no such verb: %w", api.ErrInvalid)
}

func (d *Daemon) health(ctx context.Context, _ *exchange) (any, error) { return d.Health(ctx) }

func (d *Daemon) list(ctx context.Context, c *exchange) (any, error) {
	all, err := d.List(ctx, c.PathValue("agent"))
	return api.ListReply{Secrets: all}, err
}

func (d *Daemon) set(ctx context.Context, c *exchange) (any, error) {
	var r api.SetRequest
	defer wipeSettings(&r)
	if err := c.decode(&r); err != nil {
		return nil, err
	}
	names, err := d.Set(ctx, c.who, c.PathValue("agent"), r.Settings)
	return api.NamesReply{Names: names}, err
}

func wipeSettings(r *api.SetRequest) {
	for i := range r.Settings {
		locked.Wipe(r.Settings[i].Value)
	}
}

func (d *Daemon) remove(ctx context.Context, c *exchange) (any, error) {
	now, err := strconv.ParseBool(c.URL.Query().Get("now"))
	if err != nil {
		return nil, fmt.Errorf("delete: now: %w", api.ErrInvalid)
	}
	names, err := d.Delete(ctx, c.who, c.PathValue("agent"), c.PathValue("name"), now)
	return api.NamesReply{Names: names}, err
}

func (d *Daemon) bind(ctx context.Context, c *exchange) (any, error) {
	var b api.Binding
	if err := c.decode(&b); err != nil {
		return nil, err
	}
	return struct{}{}, d.Bind(ctx, c.who, c.PathValue("agent"), c.PathValue("name"), b)
}

func (d *Daemon) bindRun(ctx context.Context, c *exchange) (any, error) {
	var b api.Binding
	if err := c.decode(&b); err != nil {
		return nil, err
	}
	return struct{}{}, d.BindRun(ctx, c.who, c.PathValue("run"), c.PathValue("name"), b)
}

func (d *Daemon) grant(ctx context.Context, c *exchange) (any, error) {
	var r api.GrantRequest
	if err := c.decode(&r); err != nil {
		return nil, err
	}
	reply, file, err := d.Grant(ctx, c.who, r)
	c.send = file
	return reply, err
}

func (d *Daemon) resume(_ context.Context, c *exchange) (any, error) {
	var r api.ResumeRequest
	if err := c.decode(&r); err != nil {
		return nil, err
	}
	g, err := d.resumable(r.Token)
	if err != nil {
		return nil, err
	}
	c.takeover = func(conn net.Conn) {
		if err := d.attach(g, conn, false); err != nil {
			d.log.Info("cannot resume", zap.String("run", g.Run), zap.Error(err))
		}
	}
	return nil, nil
}
