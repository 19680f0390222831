package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/superserve/superserve/runtime/bundle"
	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/runtime/netns"
	"github.com/superserve/superserve/runtime/runsc"
	"github.com/superserve/superserve/secretd/client"
)

// Start starts a sandbox and returns when the agent runs. Not one of its instructions is executed before the cage has
// been tested and the proxy listens. If anything fails there is no sandbox, and nothing of it is left. ctx is for the
// start only.
//
// The command's absence is not an error of Start: the returned sandbox has ended with code 127, or 126.
func Start(ctx context.Context, cfg Config) (*Sandbox, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	n, id := newID()
	s := &Sandbox{cfg: cfg, id: id, ids: bundle.NewIDs(n), done: make(chan struct{}), orders: newOrders(cfg.Network)}
	s.askable, s.stopAsking = context.WithCancel(context.Background())
	err := s.prepare(ctx)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = s.enter(ctx)
	}
	switch {
	case err == nil:
		return s, nil
	case isCommand(err):
		return s, s.endBefore(err)
	}
	if s.dir != nil {
		s.dir.rec.Logs = false // a run that never was has nothing to be kept for
	}
	return nil, errors.Join(err, s.release())
}

// isCommand reports whether nothing but the command was wrong.
func isCommand(err error) bool {
	if _, several := err.(interface{ Unwrap() []error }); several {
		return false
	}
	return errors.Is(err, bundle.ErrNotFound) || errors.Is(err, bundle.ErrNotExecutable)
}

// endBefore makes s a sandbox that has ended because its command cannot be started.
func (s *Sandbox) endBefore(cause error) error {
	s.result = Result{codeNotFound, ReasonCommand, cause.Error()}
	if errors.Is(cause, bundle.ErrNotExecutable) {
		s.result.Code = codeNotExecutable
	}
	defer close(s.done)
	return s.release()
}

// newID returns a run's ID: 60 bits in 12 letters and digits, and a number for its uids.
func newID() (uint32, string) {
	b := make([]byte, 12)
	rand.Read(b)
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:8])
	return binary.LittleEndian.Uint32(b[8:]), strings.ToLower(text[:12])
}

// step is a part of the start that runs beside others.
type step struct {
	name string
	done chan struct{}
	err  error
}

// plan is the steps of one start.
type plan struct {
	log   *zap.Logger
	begun time.Time
	steps []*step
}

// add runs f on a goroutine when all of needs have succeeded. Steps are added in the order of dependence.
func (p *plan) add(name string, f func() error, needs ...*step) *step {
	s := &step{name: name, done: make(chan struct{})}
	p.steps = append(p.steps, s)
	go func() {
		defer close(s.done)
		for _, n := range needs {
			<-n.done
			if n.err != nil {
				s.err = errSkipped
				return
			}
		}
		from := time.Since(p.begun)
		s.err = f()
		p.log.Debug("start step", zap.String("step", name), zap.Duration("from", from), zap.Duration("to", time.Since(p.begun)), zap.Error(s.err))
	}()
	return s
}

// errSkipped marks a step that was not taken because one that it needs failed.
var errSkipped = errors.New("skipped")

// wait waits for every step, whatever fails, so that what they made can be taken away. It returns the error, or the
// joined errors, of those that failed by themselves.
func (p *plan) wait() error {
	var errs []error
	for _, s := range p.steps {
		<-s.done
		if s.err != nil && s.err != errSkipped {
			errs = append(errs, s.err)
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// prepare does everything up to the agent's first instruction: afterwards the container exists and is held, its cage has
// been tested, and the proxy serves. What does not depend on each other runs at once, since on an idle machine
// gVisor's own start takes most of the time, and must not wait for ours. So the proxy has the listeners while the
// self-test stands in for it, but accepts nothing before it is told to.
func (s *Sandbox) prepare(ctx context.Context) (err error) {
	if s.dir, err = newRunDir(s.cfg.State, s.record()); err != nil {
		return err
	}
	rec := s.dir.rec // as the container's step finds it, which adds to it
	p := plan{log: s.cfg.Log, begun: time.Now()}
	ns := p.add("namespace", s.makeNamespace)
	leaf := p.add("cgroup", s.makeLeaf)
	granted := p.add("grant", func() error { return s.getGrant(ctx) })
	doors := p.add("listen", s.cage.listen, ns)
	hooks := p.add("hooks", s.cage.attach, ns, leaf)
	world := p.add("world", s.makeWorld, ns)
	spec := p.add("spec", s.writeSpec, world, granted)
	p.add("container", func() error { return s.startContainer(ctx) }, spec, leaf)
	tested := p.add("self-test", func() error { return s.testCage(ctx) }, doors, hooks)
	proxy := p.add("proxy", func() error { return s.startProxy(rec) }, doors, hooks, granted)
	p.add("serve", func() error { return s.proxy.serve() }, tested, proxy)
	p.add("trust", func() error { return s.world.Trust(s.proxy.ca) }, proxy, world)
	p.add("sweep", s.sweep)
	return p.wait()
}

// sweep clears up after supervisors that were killed. Its failure is no reason not to start.
func (s *Sandbox) sweep() error {
	if err := Sweep(s.cfg.State); err != nil {
		s.cfg.Log.Warn("sweep", zap.Error(err))
	}
	return nil
}

// enter lets the agent run. A gVisor that hangs is ended when ctx is.
func (s *Sandbox) enter(ctx context.Context) error {
	keep := context.AfterFunc(ctx, func() { s.ctr.Kill() })
	err := s.ctr.Release()
	if !keep() {
		return fmt.Errorf("wait for gVisor: %w", ctx.Err())
	}
	if err != nil {
		return err
	}
	s.meetGVisor()
	for _, n := range s.world.Notes() {
		s.tell(Notice{Kind: "sandbox", Text: n})
	}
	s.cage.closeListeners()
	s.io.control(inside{s.world, s.gv, s.id}.job(func() string { return "1" }))
	stop := func() {}
	if s.cfg.Timeout > 0 {
		text := fmt.Sprintf("the run took longer than %v", s.cfg.Timeout)
		t := time.AfterFunc(s.cfg.Timeout, func() { s.kill(Result{codeTimeout, ReasonTimeout, text}) })
		stop = func() { t.Stop() }
	}
	go s.supervise(stop)
	return nil
}

func (s *Sandbox) record() Record {
	return Record{
		ID: s.id, Agent: s.cfg.Agent, Command: s.cfg.Command, Supervisor: os.Getpid(), Started: time.Now(), Logs: s.cfg.Logs,
		Dir: s.cfg.Dir, Changes: s.cfg.Changes,
	}
}

func (s *Sandbox) makeNamespace() (err error) {
	s.cage.ns, err = netns.New()
	return err
}

func (s *Sandbox) makeLeaf() error {
	h, err := cgroup.Find()
	if err != nil {
		return err
	}
	s.cage.leaf, err = cgroup.New(h, s.id, s.cfg.Limits)
	return err
}

func (s *Sandbox) getGrant(ctx context.Context) (err error) {
	s.grant, err = s.cfg.Secrets(ctx, s.id)
	return err
}

func (s *Sandbox) makeWorld() (err error) {
	changes := ""
	if s.cfg.Changes {
		changes = changesDir(s.dir.path)
		if err := bundle.MakeChanges(changes, s.cfg.Dir); err != nil {
			return err
		}
	}
	s.world, err = bundle.New(bundle.Config{
		ID:        s.id,
		Hostname:  s.cfg.Agent,
		IDs:       s.ids,
		NetNS:     s.cage.ns.Path(),
		Rootfs:    s.cfg.Rootfs,
		Project:   s.cfg.Dir,
		Shared:    s.cfg.Workspace,
		Changes:   changes,
		Owner:     s.cfg.Owner,
		Home:      s.cfg.Home,
		Mounts:    s.cfg.Mounts,
		Files:     s.cfg.paths(),
		Resolvers: []string{dns4.Addr().String()},
		Trust:     s.cfg.UpstreamCA,
	})
	return err
}

func (s *Sandbox) writeSpec() error {
	files, err := s.renderFiles()
	if err != nil {
		return err
	}
	return s.world.WriteSpec(bundle.Process{
		Command: s.cfg.Command, Env: s.environment(), Path: s.cfg.Path, Terminal: s.cfg.Terminal != nil, Files: files,
	})
}

// environment is the caller's, and the secrets' placeholders. A secret that the agent itself shall hold is in the clear
// here, and in gVisor's state, which is on a tmpfs.
func (s *Sandbox) environment() []string {
	var env []string
	secret := make(map[string]bool)
	for _, e := range s.grant.Entries {
		secret[e.Name] = true
	}
	for _, kv := range s.cfg.Env {
		if k, _, _ := strings.Cut(kv, "="); !secret[k] {
			env = append(env, kv)
		}
	}
	for _, e := range s.grant.Entries {
		value := e.Placeholder
		if v, ok := s.grant.Exposed[e.Name]; ok && e.Exposed {
			value = string(v)
		}
		env = append(env, e.Name+"="+value)
	}
	return env
}

// startContainer creates the container in the leaf. It is held before its first instruction.
func (s *Sandbox) startContainer(ctx context.Context) (err error) {
	if s.gv, err = runsc.New(runsc.Config{
		Path: s.cfg.Runsc, State: s.world.State(), Scratch: s.dir.path, Debug: s.cfg.Debug, Log: s.runscLog(), Network: "host",
	}); err != nil {
		return err
	}
	if s.cfg.Runsc != s.cfg.Binary {
		if _, err := s.gv.Version(ctx); err != nil {
			return err
		}
	}
	if s.io, err = s.openStreams(); err != nil {
		return err
	}
	defer s.io.started()
	return s.world.Do(func() (err error) {
		s.ctr, err = s.gv.Start(runsc.Options{
			ID:       s.id,
			Bundle:   s.world.Dir(),
			Stdio:    s.io.inside,
			Terminal: s.cfg.Terminal != nil,
			Hold:     filepath.Join(s.dir.path, holdFile),
			Start:    s.startInLeaf,
		})
		return err
	})
}

func (s *Sandbox) startInLeaf(cmd *exec.Cmd) error {
	if err := s.cage.leaf.Start(cmd); err != nil {
		return err
	}
	s.dir.rec.Sandbox, s.dir.rec.Base = cmd.Process.Pid, s.world.Base()
	return s.dir.write()
}

func (s *Sandbox) openStreams() (*streams, error) {
	if !s.cfg.Logs {
		return newStreams(&s.cfg, nil, nil)
	}
	out, errs, err := s.dir.logs()
	if err != nil {
		return nil, err
	}
	st, err := newStreams(&s.cfg, out, errs)
	if err != nil {
		closeFiles([]*os.File{out, errs})
		return nil, err
	}
	st.logs = []*os.File{out, errs}
	return st, nil
}

// testCage proves the cage with the supervisor in the proxy's place.
func (s *Sandbox) testCage(ctx context.Context) error {
	d, release, err := s.cage.doors()
	if err != nil {
		return err
	}
	defer release()
	return selfTest(ctx, s.cfg.Binary, s.cage.leaf, s.cage.ns, d)
}

// startProxy starts the proxy and waits until it could serve.
func (s *Sandbox) startProxy(rec Record) error {
	binary, err := os.Open(s.cfg.Binary)
	if err != nil {
		return fmt.Errorf("start proxy: %w", err)
	}
	defer binary.Close()
	listeners, err := s.cage.listenerFiles()
	if err != nil {
		return err
	}
	defer closeFiles(listeners[:])
	if s.audit, err = openAudit(s.cfg.State, rec); err != nil {
		return err
	}
	defer s.audit.handOver()
	resume, err := s.openResume()
	if err != nil {
		return err
	}
	defer closeFiles([]*os.File{resume})
	h := &Handoff{
		Run: s.id, Agent: s.cfg.Agent, Network: s.cfg.Network, Resolve: s.cfg.Resolve, UpstreamCA: s.cfg.UpstreamCA,
		Resume: s.grant.Resume, Prices: s.cfg.Prices, Asks: s.cfg.Ask != nil,
	}
	start, err := s.makeProxyGroup()
	if err != nil {
		return err
	}
	s.proxy, err = startProxy(binary, s.ids.Proxy(), h, map[*int]*os.File{
		&h.FDs.TCP4: listeners[0], &h.FDs.TCP6: listeners[1],
		&h.FDs.DNSUDP4: listeners[2], &h.FDs.DNSUDP6: listeners[3],
		&h.FDs.DNSTCP4: listeners[4], &h.FDs.DNSTCP6: listeners[5],
		&h.FDs.Destinations: s.cage.redirect.Destinations(),
		&h.FDs.Grant:        s.grant.Channel,
		&h.FDs.Second:       s.grant.Second,
		&h.FDs.Secretd:      resume,
		&h.FDs.Audit:        s.audit.file,
		&h.FDs.Tail:         s.audit.tail,
	}, start)
	if err != nil {
		return err
	}
	// The proxy's copy is the only one from here on: when it dies, the grant ends.
	closeFiles([]*os.File{s.grant.Channel, s.grant.Second})
	s.grant.Channel, s.grant.Second = nil, nil
	return s.proxy.awaitReady()
}

// openResume opens the way to secretd's resumption socket, which the proxy cannot reach by its path.
func (s *Sandbox) openResume() (*os.File, error) {
	if s.grant.Socket == "" || s.grant.Resume == "" {
		return nil, nil
	}
	return client.OpenResume(s.grant.Socket)
}

// release takes away what is there of a sandbox, started or not. It is called once.
func (s *Sandbox) release() error {
	var errs []error
	if s.ctr != nil {
		s.ctr.Kill()
	}
	// The kernel takes its time to free hooks and processes, and the proxy to part: at once, then.
	var wg sync.WaitGroup
	var proxyErr error
	wg.Go(func() {
		if s.proxy != nil {
			s.proxy.close()
		}
		if s.proxyLeaf != nil {
			proxyErr = s.proxyLeaf.Close()
		}
		s.endAudit()
	})
	errs = append(errs, s.cage.close())
	if s.ctr != nil {
		s.ctr.Wait()
	}
	if s.io != nil {
		s.io.close()
	}
	wg.Wait()
	errs = append(errs, proxyErr)
	closeFiles([]*os.File{s.grant.Channel, s.grant.Second})
	if s.grant.Close != nil {
		s.grant.Close()
	}
	if s.world != nil {
		errs = append(errs, s.world.Close())
	}
	if s.dir != nil {
		errs = append(errs, s.dir.end(s.result))
	}
	return errors.Join(errs...)
}
