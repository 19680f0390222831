package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/locked"
)

const (
	// defaultLease is how long an answer serves without asking again.
	defaultLease = 60 * time.Second
	// openTimeout bounds the greeting of a new channel.
	openTimeout = 5 * time.Second
	// redialWait is how long a request waits for a channel that is being reopened:
	// secretd restarts in well under a second.
	redialWait = time.Second
	// redialFirst and redialMost bound the pause between two attempts to reopen.
	redialFirst, redialMost = 20 * time.Millisecond, 500 * time.Millisecond
)

// Options are the choices of the proxy's end. The zero value leases for 60 s,
// never redials and tells nobody of changes.
type Options struct {
	// Lease is how long an answer serves without asking again, and so how long a
	// value outlives an unreachable secretd. 0 is 60 s; negative never caches.
	Lease time.Duration
	// Redial reopens the channel after it broke; nil ends the lease then. It is
	// called again, with a growing pause, until it succeeds or returns an error
	// that wraps api.ErrDenied, api.ErrUnknown, api.ErrRevoked or api.ErrVersion.
	Redial func(ctx context.Context) (net.Conn, error)
	// OnChange hears of each rotation and revocation after the cache forgot the
	// old value. It is called on the reader's goroutine and must not block.
	OnChange func(api.Change)
}

// Lease is the proxy's end of a grant. It is safe for concurrent use.
type Lease struct {
	options Options
	entries []api.Entry
	cache   cache
	ctx     context.Context // ends with Close
	cancel  context.CancelCauseFunc
	wait    sync.WaitGroup

	mu      sync.Mutex
	link    *link         // nil while there is no channel
	renewed chan struct{} // closed and replaced whenever link or done changes
	done    error         // why there will be no channel again
}

// Open greets secretd on conn and reads the manifest. It owns conn from then on,
// also when it fails. The error wraps api.ErrVersion when the peer has another
// version.
func Open(conn net.Conn, o Options) (*Lease, error) {
	if o.Lease == 0 {
		o.Lease = defaultLease
	}
	entries, err := greet(conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("open grant: %w", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	l := &Lease{options: o, entries: entries, ctx: ctx, cancel: cancel, link: newLink(conn), renewed: make(chan struct{})}
	l.cache.reset(o.Lease)
	l.wait.Go(l.run)
	return l, nil
}

// greet sends the version and reads the manifest.
func greet(conn net.Conn) ([]api.Entry, error) {
	// The frame reader sets deadlines of its own, so the whole greeting is bounded
	// by closing the connection.
	timer := time.AfterFunc(openTimeout, func() { conn.Close() })
	defer timer.Stop()
	if err := writeFrame(conn, kindHello, 0, helloPayload(0)); err != nil {
		return nil, err
	}
	f, err := readFrame(conn)
	if err != nil {
		return nil, err
	}
	if f.kind == kindRefusal && len(f.payload) == 1 {
		return nil, api.FromCode(api.ErrorCode(f.payload[0]))
	}
	n, err := parseHello(f)
	if err != nil {
		return nil, err
	}
	entries := make([]api.Entry, 0, n)
	for range n {
		f, err := readFrame(conn)
		if err != nil {
			return nil, err
		}
		if f.kind != kindEntry {
			return nil, fmt.Errorf("frame of kind %d in the manifest: %w", f.kind, errProtocol)
		}
		e, err := parseEntry(f.payload)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Entries returns what the run was granted when the lease was opened. The slice is
// shared and read-only.
func (l *Lease) Entries() []api.Entry { return l.entries }

// Resolve returns the value behind a placeholder for one destination, from the
// cache while the lease on it lasts, else from secretd. A rotation or revocation
// empties the cache at once. The errors are those of package api; without a channel
// it is api.ErrUnavailable after at most a second.
func (l *Lease) Resolve(ctx context.Context, r api.ResolveRequest) (api.Secret, error) {
	if s, ok := l.cache.get(&r); ok {
		return s, nil
	}
	return l.ask(ctx, r)
}

func (l *Lease) ask(ctx context.Context, r api.ResolveRequest) (api.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	for {
		k, err := l.channel(ctx)
		if err != nil {
			return nil, err
		}
		// The epoch is read before asking: an answer that a change overtook is
		// used once but not kept.
		epoch := l.cache.epoch()
		value, err := k.ask(ctx, r)
		if errors.Is(err, errLinkDown) {
			l.drop(k)
			continue
		}
		if err != nil {
			return nil, err
		}
		held := locked.Copy(value)
		locked.Wipe(value)
		secret := api.Secret(func() []byte { return held })
		l.cache.put(r, l.nameOf(r.Placeholder), secret, epoch)
		return secret, nil
	}
}

// Charge tells secretd of the use of a secret, and asks whether one more request may
// go. Without a channel it is api.ErrUnavailable after at most a second. What an answer
// has used is said again on a new channel when the old one broke before the answer
// came, so it may be counted twice, never lost to that.
func (l *Lease) Charge(ctx context.Context, c api.Charge) (api.Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	payload, err := json.Marshal(c)
	if err != nil {
		return api.Verdict{}, fmt.Errorf("charge: %w", err)
	}
	for {
		k, err := l.channel(ctx)
		if err != nil {
			return api.Verdict{}, err
		}
		answer, err := k.exchange(ctx, kindCharge, payload)
		if errors.Is(err, errLinkDown) {
			l.drop(k)
			continue
		}
		if err != nil {
			return api.Verdict{}, err
		}
		var v api.Verdict
		if err := json.Unmarshal(answer, &v); err != nil {
			return api.Verdict{}, fmt.Errorf("verdict: %w", errProtocol)
		}
		return v, nil
	}
}

// Renew has secretd store what a token endpoint gave for a refresh token of the run, and
// returns when that is acknowledged: sealed and on disk. The error wraps api.ErrDenied
// when the run's secrets are not stored, or this one may not be renewed; with
// api.ErrUnavailable it may be tried again. The tokens stay the caller's.
func (l *Lease) Renew(ctx context.Context, r api.Renewal) error {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	k, err := l.channel(ctx)
	if err != nil {
		return err
	}
	payload := appendRenewal(make([]byte, 0, renewalRoom+len(r.Placeholder)+len(r.Refresh)+len(r.Access)+len(r.ID)), r)
	defer clear(payload)
	if len(payload) > maxFrame-frameFixed {
		return fmt.Errorf("renew: %w: the tokens are too long", api.ErrInvalid)
	}
	_, err = k.exchange(ctx, kindRenew, payload)
	if errors.Is(err, errLinkDown) {
		l.drop(k)
		return fmt.Errorf("renew: %w", api.ErrUnavailable)
	}
	// What secretd pushes may come after its answer: nobody may be given the old token.
	name := l.nameOf(r.Placeholder)
	access, id := api.LoginNames(name)
	for _, n := range []string{name, access, id} {
		l.cache.forget(n)
	}
	return err
}

// renewalRoom is for the lengths in a renewal, in bytes.
const renewalRoom = 24

func (l *Lease) nameOf(placeholder string) string {
	for i := range l.entries {
		if l.entries[i].Placeholder == placeholder {
			return l.entries[i].Name
		}
	}
	return ""
}

// channel returns the live link, waiting a moment for one that is being reopened.
func (l *Lease) channel(ctx context.Context) (*link, error) {
	timer := time.NewTimer(redialWait)
	defer timer.Stop()
	for {
		l.mu.Lock()
		k, renewed, done := l.link, l.renewed, l.done
		l.mu.Unlock()
		if done != nil {
			return nil, done
		}
		if k != nil {
			return k, nil
		}
		select {
		case <-renewed:
		case <-timer.C:
			return nil, api.ErrUnavailable
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", api.ErrUnavailable, ctx.Err())
		}
	}
}

// drop forgets a link that broke, if it is still the current one.
func (l *Lease) drop(k *link) {
	l.mu.Lock()
	if l.link == k {
		l.setLink(nil, nil)
	}
	l.mu.Unlock()
}

// setLink is called with mu held.
func (l *Lease) setLink(k *link, done error) {
	l.link, l.done = k, done
	close(l.renewed)
	l.renewed = make(chan struct{})
}

// run reads the channel, and reopens it when it breaks, until Close.
func (l *Lease) run() {
	l.mu.Lock()
	k := l.link
	l.mu.Unlock()
	for k != nil {
		k.read(l.changed)
		l.drop(k)
		k = l.reopen()
	}
}

func (l *Lease) changed(c api.Change) {
	l.cache.forget(c.Name)
	if l.options.OnChange != nil {
		l.options.OnChange(c)
	}
}

// reopen returns the next link, or nil when there will be none.
func (l *Lease) reopen() *link {
	if l.options.Redial == nil {
		l.end(api.ErrUnavailable)
		return nil
	}
	for pause := redialFirst; l.ctx.Err() == nil; pause = min(2*pause, redialMost) {
		k, err := l.redial()
		if err == nil {
			return k
		}
		if final(err) {
			l.revoke(err)
			return nil
		}
		select {
		case <-l.ctx.Done():
		case <-time.After(pause):
		}
	}
	l.end(api.ErrUnavailable)
	return nil
}

func final(err error) bool {
	return errors.Is(err, api.ErrDenied) || errors.Is(err, api.ErrUnknown) || errors.Is(err, api.ErrRevoked) || errors.Is(err, api.ErrVersion)
}

func (l *Lease) redial() (*link, error) {
	ctx, cancel := context.WithTimeout(l.ctx, openTimeout)
	defer cancel()
	conn, err := l.options.Redial(ctx)
	if err != nil {
		return nil, err
	}
	entries, err := greet(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	l.missed(entries)
	k := newLink(conn)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		conn.Close()
		return nil, l.ctx.Err()
	}
	l.setLink(k, nil)
	return k, nil
}

// missed makes up for the changes of the time without a channel: every value is
// asked for again, and what the new manifest lacks was revoked.
func (l *Lease) missed(entries []api.Entry) {
	left := make(map[string]bool, len(entries))
	for _, e := range entries {
		left[e.Placeholder] = true
	}
	l.cache.reset(l.options.Lease)
	for _, e := range l.entries {
		if !left[e.Placeholder] {
			l.changed(api.Change{Name: e.Name, Kind: api.Revoked, Cut: true})
		}
	}
}

// revoke ends a lease that secretd refuses to continue.
func (l *Lease) revoke(err error) {
	if !errors.Is(err, api.ErrVersion) {
		l.missed(nil)
		err = api.ErrRevoked
	}
	l.end(err)
}

func (l *Lease) end(err error) {
	l.mu.Lock()
	l.setLink(nil, err)
	l.mu.Unlock()
}

// Close ends the grant, forgets every value and waits for the lease's goroutine.
// Secrets that were handed out stay readable until they are let go of.
func (l *Lease) Close() error {
	l.cancel(nil)
	l.mu.Lock()
	k := l.link
	l.mu.Unlock()
	if k != nil {
		k.conn.Close()
	}
	l.wait.Wait()
	l.cache.reset(-1)
	return nil
}
