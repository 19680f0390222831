package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/superserve/superserve/secretd/api"
)

// maxInFlight is how many requests of one channel are answered at once; the next
// one waits in the socket.
const maxInFlight = 64

// resolveTimeout bounds one call of a Keeper.
const resolveTimeout = 5 * time.Second

// Keeper answers for one run. Entries is what the run was granted. Resolve decides,
// records and returns the value, which stays the keeper's and must not change
// after it was returned; its error's sentinel is all that the peer learns. Both are
// safe for concurrent use.
type Keeper interface {
	Entries() []api.Entry
	Resolve(ctx context.Context, r api.ResolveRequest) ([]byte, error)
}

// Accountant is a Keeper that counts what the requests with its secrets use. Charge is
// safe for concurrent use. Its error's sentinel is all that the peer learns.
type Accountant interface {
	Charge(ctx context.Context, c api.Charge) (api.Verdict, error)
}

// Renewer is a Keeper that stores what a token endpoint gave for one of its secrets.
// When Renew returns nil the tokens are on disk. They are the caller's, who wipes them.
// Renew is safe for concurrent use; its error's sentinel is all that the peer learns.
type Renewer interface {
	Renew(ctx context.Context, r api.Renewal) error
}

// Serve answers on conn for k until the peer closes it, ctx ends, changes is
// closed or the peer breaks the protocol; it then closes conn and waits for the
// requests in flight. Changes are sent on as they come. It returns nil when the
// peer closed, ctx's error when ctx ended, and an error that wraps api.ErrVersion
// for a peer of another version.
func Serve(ctx context.Context, conn net.Conn, k Keeper, changes <-chan api.Change) error {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &server{conn: conn, in: &buffer{from: conn}, keeper: k, slots: make(chan struct{}, maxInFlight)}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		cancel(nil)
		stop()
		conn.Close()
		s.wait.Wait()
		s.in.wipe()
	}()
	if err := s.greet(); err != nil {
		return s.outcome(ctx, err)
	}
	s.wait.Go(func() { cancel(s.push(ctx, changes)) })
	return s.outcome(ctx, s.answer(ctx))
}

type server struct {
	conn   net.Conn
	in     *buffer
	keeper Keeper
	slots  chan struct{}
	wait   sync.WaitGroup

	mu sync.Mutex // serialises writes on conn
}

// outcome picks the reason that the caller can act on.
func (s *server) outcome(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(cause, errChangesClosed) {
			return nil
		}
		return cause
	}
	if closedByPeer(err) {
		return nil
	}
	return fmt.Errorf("serve grant: %w", err)
}

func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe)
}

func (s *server) write(k kind, id uint64, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return writeFrame(s.conn, k, id, payload)
}

// greet checks the peer's version and sends the manifest.
func (s *server) greet() error {
	f, err := readFrameFrom(s.conn, s.in)
	if err != nil {
		return err
	}
	if _, err := parseHello(f); err != nil {
		_ = s.refuse(0, err)
		return err
	}
	entries := s.keeper.Entries()
	if err := s.write(kindHello, 0, helloPayload(len(entries))); err != nil {
		return err
	}
	for _, e := range entries {
		p, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("entry %q: %w", e.Name, err)
		}
		if err := s.write(kindEntry, 0, p); err != nil {
			return err
		}
	}
	return nil
}

// errChangesClosed ends a channel whose keeper has nothing more to say.
var errChangesClosed = errors.New("changes closed")

func (s *server) push(ctx context.Context, changes <-chan api.Change) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case c, open := <-changes:
			if !open {
				return errChangesClosed
			}
			p, err := json.Marshal(c)
			if err != nil {
				return fmt.Errorf("change of %q: %w", c.Name, err)
			}
			// A peer that cannot be told of a revocation loses the channel.
			if err := s.write(kindChange, 0, p); err != nil {
				return fmt.Errorf("push change of %q: %w", c.Name, err)
			}
		}
	}
}

// answer reads requests until the channel ends; each is answered in a goroutine of
// its own, so that a slow record of one does not hold up another.
func (s *server) answer(ctx context.Context) error {
	for {
		f, err := readFrameFrom(s.conn, s.in)
		if err != nil {
			return err
		}
		work, err := s.work(ctx, f)
		if err != nil {
			return err
		}
		s.slots <- struct{}{}
		s.wait.Go(func() {
			defer func() { <-s.slots }()
			if err := work(); err != nil {
				s.conn.Close()
			}
		})
	}
}

// work is what a frame asks for.
func (s *server) work(ctx context.Context, f frame) (func() error, error) {
	switch f.kind {
	case kindResolve:
		r, err := parseRequest(f.payload)
		return func() error { return s.resolve(ctx, f.id, r) }, err
	case kindCharge:
		c, err := parseCharge(f.payload)
		return func() error { return s.charge(ctx, f.id, c) }, err
	case kindRenew:
		r, err := parseRenewal(f.payload)
		if err != nil {
			clear(f.payload)
		}
		return func() error {
			defer clear(f.payload)
			return s.renew(ctx, f.id, r)
		}, err
	}
	return nil, fmt.Errorf("frame of kind %d: %w", f.kind, errProtocol)
}

func (s *server) resolve(ctx context.Context, id uint64, r api.ResolveRequest) error {
	within, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	value, err := s.keeper.Resolve(within, r)
	if ctx.Err() != nil {
		return ctx.Err() // the grant ended meanwhile: nothing leaves any more
	}
	if within.Err() != nil {
		return s.refuse(id, api.ErrUnavailable)
	}
	if err != nil {
		return s.refuse(id, err)
	}
	return s.write(kindValue, id, value)
}

// charge asks the keeper's account. A keeper without one keeps no limit, so it refuses.
func (s *server) charge(ctx context.Context, id uint64, c api.Charge) error {
	account, ok := s.keeper.(Accountant)
	if !ok {
		return s.refuse(id, api.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	v, err := account.Charge(ctx, c)
	if err != nil {
		return s.refuse(id, err)
	}
	p, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("verdict: %w", err)
	}
	return s.write(kindValue, id, p)
}

// renew asks the keeper to store tokens. One that stores nothing refuses.
func (s *server) renew(ctx context.Context, id uint64, r api.Renewal) error {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	k, ok := s.keeper.(Renewer)
	if !ok {
		return s.refuse(id, api.ErrDenied)
	}
	if err := k.Renew(ctx, r); err != nil {
		return s.refuse(id, err)
	}
	return s.write(kindValue, id, nil)
}

func (s *server) refuse(id uint64, err error) error {
	return s.write(kindRefusal, id, []byte{byte(api.Code(err))})
}
