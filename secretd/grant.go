package secretd

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/audit"
	"github.com/superserve/superserve/secretd/lease"
	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/placeholder"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/store"
)

const (
	// tokenLen is the length of a resume token, in bytes.
	tokenLen = 32
	// resumeGrace is how long a grant of a daemon that ended waits for its holder:
	// longer than any lease, after which the holder has nothing left to serve.
	resumeGrace = 2 * time.Minute
	// maxChanges is how many changes may wait for a holder that does not read.
	maxChanges = api.MaxSecrets + 16
)

// grant is what one run was given. The exported fields are stored, sealed, until
// the run ends. It is the lease.Keeper of its channel.
type grant struct {
	Run     string    `json:"run"`
	Agent   string    `json:"agent"`
	Granted []granted `json:"granted"`

	id       string // hex SHA-256 of the resume token: the token itself is not kept
	daemon   *Daemon
	revision uint64
	// changes is nil while no channel is open; d.mu guards it.
	changes chan api.Change
	cancel  context.CancelFunc
}

// granted is one secret of a grant.
type granted struct {
	api.Entry
	Origin   string `json:"origin"`
	Override bool   `json:"override,omitempty"`
}

// Entries returns the secrets of the grant that were not revoked since.
func (g *grant) Entries() []api.Entry {
	entries := make([]api.Entry, 0, len(g.Granted))
	for i := range g.Granted {
		if _, err := g.daemon.current(g.daemon.ctx, g, &g.Granted[i]); errors.Is(err, api.ErrRevoked) {
			continue
		}
		entries = append(entries, g.Granted[i].Entry)
	}
	return entries
}

// Resolve asks the gate.
func (g *grant) Resolve(ctx context.Context, r api.ResolveRequest) ([]byte, error) {
	return g.daemon.authorize(ctx, g, r)
}

// Grant gives a run its secrets and returns the proxy's end of their channel, which
// the caller closes. The error wraps *api.MissingError when the agent lacks some.
func (d *Daemon) Grant(ctx context.Context, who caller, r api.GrantRequest) (api.GrantReply, *os.File, error) {
	if err := checkGrant(r); err != nil {
		return api.GrantReply{}, nil, err
	}
	g := &grant{Run: r.Run, Agent: r.Agent, daemon: d}
	reply := api.GrantReply{Exposed: make(map[string][]byte)}
	if err := d.fill(ctx, g, r.Secrets, &reply); err != nil {
		return api.GrantReply{}, nil, err
	}
	token := make([]byte, tokenLen)
	_, _ = rand.Read(token)
	reply.Resume, g.id = hex.EncodeToString(token), tokenID(token)
	if err := d.recordGrant(who, g); err != nil {
		return api.GrantReply{}, nil, err
	}
	if err := d.keep(ctx, g); err != nil {
		return api.GrantReply{}, nil, err
	}
	ours, theirs, err := channel()
	if err != nil {
		d.end(g, "no channel")
		return api.GrantReply{}, nil, err
	}
	if err := d.attach(g, ours, true); err != nil {
		theirs.Close()
		return api.GrantReply{}, nil, err
	}
	return reply, theirs, nil
}

func checkGrant(r api.GrantRequest) error {
	if err := errors.Join(api.CheckAgent(r.Agent), api.CheckRun(r.Run)); err != nil {
		return err
	}
	if len(r.Secrets) > api.MaxSecrets {
		return fmt.Errorf("grant %d secrets: %w: the most is %d", len(r.Secrets), api.ErrInvalid, api.MaxSecrets)
	}
	seen := make(map[string]bool)
	for _, w := range r.Secrets {
		if err := errors.Join(api.CheckName(w.Name), w.Limits.Check()); err != nil {
			return err
		}
		if seen[w.Name] {
			return fmt.Errorf("secret %q is asked for twice: %w", w.Name, api.ErrInvalid)
		}
		seen[w.Name] = true
	}
	return nil
}

// fill makes the entries of a grant, or says which secrets are missing.
func (d *Daemon) fill(ctx context.Context, g *grant, wanted []api.Wanted, reply *api.GrantReply) error {
	marker := placeholder.NewMarker()
	missing := &api.MissingError{Agent: g.Agent}
	for _, w := range wanted {
		s, err := d.load(ctx, g.Agent, w.Name)
		if errors.Is(err, api.ErrNotFound) {
			missing.Names = append(missing.Names, w.Name)
			continue
		}
		if err != nil {
			return err
		}
		e, err := d.entry(s, w, marker, reply)
		if err != nil {
			return err
		}
		g.Granted = append(g.Granted, e)
		reply.Entries = append(reply.Entries, e.Entry)
	}
	if len(missing.Names) > 0 {
		return missing
	}
	return nil
}

// entry makes one entry; the value of an exposed secret goes into the reply.
func (d *Daemon) entry(s *secret, w api.Wanted, marker string, reply *api.GrantReply) (granted, error) {
	e := granted{Entry: api.Entry{Name: s.name, Binding: s.effective(), Exposed: w.Expose, Limits: w.Limits, Expires: s.Expires}, Origin: s.Origin}
	if w.Binding != nil {
		e.Binding, e.Override = override(e.Binding, *w.Binding), true
	}
	value, err := d.openValue(s)
	if err != nil {
		return granted{}, err
	}
	defer locked.Wipe(value)
	if err := checkBinding(s.name, e.Binding, value); err != nil {
		return granted{}, err
	}
	if w.Expose {
		e.Binding = api.Binding{}
		reply.Exposed[s.name] = append([]byte(nil), value...)
		return e, nil
	}
	e.Placeholder, err = placeholder.Mint(marker, s.name, value)
	return e, err
}

// override puts what superserve.yaml says of a binding over what is known: hosts and
// uses replace, when they are given.
func override(known, by api.Binding) api.Binding {
	if !by.Bound() {
		by.Hosts = known.Hosts
	}
	if len(by.Uses) == 0 && slices.Equal(by.Hosts, known.Hosts) {
		by.Uses = known.Uses
	}
	by.AllowOwn = by.AllowOwn || known.AllowOwn
	by.Plaintext = by.Plaintext || known.Plaintext && slices.Equal(by.Hosts, known.Hosts)
	return by
}

// recordGrant writes what a run gets, and each exposed secret loudly by itself.
func (d *Daemon) recordGrant(who caller, g *grant) error {
	var names, exposed []string
	for _, e := range g.Granted {
		if e.Exposed {
			exposed = append(exposed, e.Name)
			continue
		}
		names = append(names, e.Name)
	}
	if len(exposed) > 0 {
		d.log.Warn("the agent gets real values", zap.String("agent", g.Agent), zap.String("run", g.Run), zap.Strings("secrets", exposed))
		if err := d.record(who, audit.Event{Verb: "expose", Agent: g.Agent, Run: g.Run, Names: exposed}); err != nil {
			return err
		}
	}
	return d.record(who, audit.Event{Verb: "grant", Agent: g.Agent, Run: g.Run, Names: names})
}

func tokenID(token []byte) string {
	sum := sha256.Sum256(token)
	return hex.EncodeToString(sum[:])
}

func (d *Daemon) grantPlace(id string) seal.Place {
	return seal.Place{Store: d.store.ID(), Kind: "grant", Name: id}
}

// keep stores a grant, sealed, so that its holder can resume after a restart.
func (d *Daemon) keep(ctx context.Context, g *grant) error {
	plain, err := json.Marshal(g)
	if err != nil {
		return fmt.Errorf("store grant: %w", err)
	}
	sealed, err := d.sealer.Seal(d.grantPlace(g.id), plain)
	if err != nil {
		return err
	}
	if err := d.store.Apply(ctx, []store.Change{{Key: grantPrefix + g.id, Value: sealed}}); err != nil {
		return fmt.Errorf("store grant: %w", err)
	}
	g.revision = 1
	return nil
}

// channel makes the two ends of a grant.
func channel() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make channel: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "grant"), os.NewFile(uintptr(fds[1]), "grant")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make channel: %w", err)
	}
	return conn, theirs, nil
}

// attach serves a grant on conn, which it owns, until either side ends it. The error
// wraps api.ErrDenied when the grant has a channel already or ended, unless fresh.
func (d *Daemon) attach(g *grant, conn net.Conn, fresh bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil || g.changes != nil || !fresh && d.grants[g.id] != g {
		conn.Close()
		return fmt.Errorf("run %q: channel: %w", g.Run, api.ErrDenied)
	}
	d.grants[g.id] = g
	changes := make(chan api.Change, maxChanges)
	ctx, cancel := context.WithCancel(d.ctx)
	g.changes, g.cancel = changes, cancel
	d.wait.Go(func() {
		defer cancel()
		err := lease.Serve(ctx, conn, g, changes)
		if d.ctx.Err() == nil {
			d.end(g, outcome(err))
		}
	})
	return nil
}

func outcome(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// end forgets a grant whose channel closed.
func (d *Daemon) end(g *grant, why string) {
	d.mu.Lock()
	delete(d.grants, g.id)
	for i := range g.Granted {
		delete(d.allowed, g.id+"/"+g.Granted[i].Name)
	}
	g.changes = nil
	d.mu.Unlock()
	if err := d.store.Apply(context.Background(), []store.Change{{Key: grantPrefix + g.id, Delete: true, Base: g.revision}}); err != nil {
		d.log.Error("cannot forget grant", zap.String("run", g.Run), zap.Error(err))
	}
	if err := d.audit.Record(audit.Event{Verb: "end", Agent: g.Agent, Run: g.Run, Refused: why}, false); err != nil {
		d.log.Error("cannot record", zap.Error(err))
	}
	d.storeUsed()
	d.endAccounts(g)
	d.letGo(func(key string) bool {
		agent, name, _ := splitKey(key)
		return !d.inUse(agent, name)
	})
}

// inUse is called with mu held.
func (d *Daemon) inUse(agent, name string) bool {
	for _, g := range d.grants {
		if g.Agent == agent && g.holds(name) {
			return true
		}
	}
	return false
}

// tell pushes a change to every run that holds the secret, and forgets the value of
// before. A holder that lets changes pile up loses its channel instead.
func (d *Daemon) tell(agent string, c api.Change) {
	defer d.letGo(func(key string) bool { return key == secretKey(agent, c.Name) })
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, g := range d.grants {
		if g.Agent != agent || g.changes == nil || !g.holds(c.Name) {
			continue
		}
		select {
		case g.changes <- c:
		default:
			g.cancel()
		}
	}
}

func (g *grant) holds(name string) bool {
	for i := range g.Granted {
		if g.Granted[i].Name == name {
			return true
		}
	}
	return false
}

// loadGrants brings back the grants of a daemon that ended, for resumeGrace.
func (d *Daemon) loadGrants(ctx context.Context) error {
	records, err := store.List(ctx, d.store, grantPrefix)
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	for _, r := range records {
		id := r.Key[len(grantPrefix):]
		g := &grant{id: id, daemon: d, revision: r.Revision}
		plain, err := d.sealer.Open(d.grantPlace(id), r.Value)
		if err != nil || json.Unmarshal(plain, g) != nil {
			return fmt.Errorf("grant in the store is damaged: %w", seal.ErrSealed)
		}
		d.grants[id] = g
	}
	if len(records) > 0 {
		d.wait.Go(d.expire)
	}
	return nil
}

// expire ends the grants that nobody resumed in time.
func (d *Daemon) expire() {
	timer := time.NewTimer(resumeGrace)
	defer timer.Stop()
	select {
	case <-d.ctx.Done():
		return
	case <-timer.C:
		d.endIdle()
	}
}

// endIdle ends the grants that have no channel.
func (d *Daemon) endIdle() {
	d.mu.Lock()
	var late []*grant
	for _, g := range d.grants {
		if g.changes == nil {
			late = append(late, g)
		}
	}
	d.mu.Unlock()
	for _, g := range late {
		d.end(g, "not resumed")
	}
}

// resumable finds the grant of a token, in hex. The error wraps api.ErrUnknown, or
// api.ErrDenied while the grant's channel is open.
func (d *Daemon) resumable(token string) (*grant, error) {
	raw, err := hex.DecodeString(token)
	if err != nil || len(raw) != tokenLen {
		return nil, fmt.Errorf("resume: %w", api.ErrUnknown)
	}
	// The look-up is by a hash of the token, so its time says nothing of it.
	d.mu.Lock()
	g := d.grants[tokenID(raw)]
	live := g != nil && g.changes != nil
	d.mu.Unlock()
	if g == nil {
		return nil, fmt.Errorf("resume: %w", api.ErrUnknown)
	}
	if live {
		return nil, fmt.Errorf("resume: channel is open: %w", api.ErrDenied)
	}
	return g, d.audit.Record(audit.Event{Verb: "resume", Agent: g.Agent, Run: g.Run}, true)
}
