package lease

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/superserve/superserve/secretd/api"
)

// errLinkDown says that the channel broke before the answer came.
var errLinkDown = errors.New("channel closed")

// link is one connection of the proxy's end and the questions in flight on it. It
// is safe for concurrent use; read is called once.
type link struct {
	conn net.Conn

	writing sync.Mutex // serialises writes on conn

	mu      sync.Mutex
	pending map[uint64]chan frame // nil once the connection is down
	last    uint64
}

func newLink(conn net.Conn) *link {
	return &link{conn: conn, pending: make(map[uint64]chan frame)}
}

// ask sends a request and waits for its answer. The value is the caller's to wipe.
func (k *link) ask(ctx context.Context, r api.ResolveRequest) ([]byte, error) {
	return k.exchange(ctx, kindResolve, appendRequest(make([]byte, 0, 256), r))
}

func (k *link) exchange(ctx context.Context, what kind, payload []byte) ([]byte, error) {
	id, answer, err := k.enlist()
	if err != nil {
		return nil, err
	}
	if err := k.send(what, id, payload); err != nil {
		k.conn.Close() // the reader takes the link down
		k.abandon(id, answer)
		return nil, fmt.Errorf("%w: %w", errLinkDown, err)
	}
	select {
	case f, open := <-answer:
		if !open {
			return nil, errLinkDown
		}
		return answerOf(f)
	case <-ctx.Done():
		k.abandon(id, answer)
		return nil, fmt.Errorf("%w: %w", api.ErrUnavailable, ctx.Err())
	}
}

func answerOf(f frame) ([]byte, error) {
	if f.kind == kindValue {
		return f.payload, nil
	}
	if len(f.payload) != 1 || f.payload[0] == 0 {
		return nil, api.ErrUnavailable
	}
	return nil, api.FromCode(api.ErrorCode(f.payload[0]))
}

func (k *link) enlist() (uint64, chan frame, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pending == nil {
		return 0, nil, errLinkDown
	}
	k.last++
	// Room for one frame: the reader never waits for a questioner that left.
	answer := make(chan frame, 1)
	k.pending[k.last] = answer
	return k.last, answer, nil
}

// abandon gives up a question, and wipes the answer if it has come already.
func (k *link) abandon(id uint64, answer <-chan frame) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.pending, id)
	select {
	case f := <-answer:
		clear(f.payload)
	default:
	}
}

func (k *link) send(what kind, id uint64, payload []byte) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	return writeFrame(k.conn, what, id, payload)
}

// read hands out answers and changes until the connection ends; it closes it.
func (k *link) read(changed func(api.Change)) {
	defer k.down()
	for {
		f, err := readFrame(k.conn)
		if err != nil {
			return
		}
		switch f.kind {
		case kindValue, kindRefusal:
			k.deliver(f)
		case kindChange:
			c, err := parseChange(f.payload)
			if err != nil {
				return
			}
			changed(c)
		default:
			return
		}
	}
}

func (k *link) deliver(f frame) {
	k.mu.Lock()
	defer k.mu.Unlock()
	answer, waiting := k.pending[f.id]
	if !waiting {
		clear(f.payload)
		return
	}
	delete(k.pending, f.id)
	answer <- f
}

func (k *link) down() {
	k.conn.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, answer := range k.pending {
		close(answer)
	}
	k.pending = nil
}
