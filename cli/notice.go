package cli

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/runtime/sandbox"
)

const (
	// noticeQueue is how many notices wait for a slow supervisor; more are dropped, since the audit log has them.
	noticeQueue = 64
	// noticeKinds is how many different notices one run shows: an agent must not fill its user's screen.
	noticeKinds = 256
	// noticeTimeout is how long a supervisor may take to read one.
	noticeTimeout = 5 * time.Second
)

// notices is a Recorder that passes events on and tells the supervisor of the refusals among them, each kind
// once. It is safe for concurrent use.
type notices struct {
	next  audit.Recorder
	queue chan sandbox.Notice

	mu   sync.Mutex
	seen map[sandbox.Notice]bool
}

func newNotices(next audit.Recorder) *notices {
	return &notices{next: next, queue: make(chan sandbox.Notice, noticeQueue), seen: map[sandbox.Notice]bool{}}
}

// Record passes e on; its error is that of the log.
func (n *notices) Record(e audit.Event) error {
	if err := n.next.Record(e); err != nil {
		return err
	}
	if e.Verdict == audit.Refused {
		n.tell(noticeOf(e))
	}
	return nil
}

func (n *notices) tell(notice sandbox.Notice) {
	if !n.fresh(notice) {
		return
	}
	select {
	case n.queue <- notice:
	default:
	}
}

// ask puts a question, which is shown each time. It reports false when the supervisor does not read.
func (n *notices) ask(question sandbox.Notice) bool {
	select {
	case n.queue <- question:
		return true
	default:
		return false
	}
}

// fresh reports whether notice is to be shown, and remembers it.
func (n *notices) fresh(notice sandbox.Notice) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seen[notice] || len(n.seen) >= noticeKinds {
		return false
	}
	n.seen[notice] = true
	return true
}

// noticeOf says in one sentence what was refused.
func noticeOf(e audit.Event) sandbox.Notice {
	host := e.Name
	if host == "" {
		host = e.Addr
	}
	to := net.JoinHostPort(host, strconv.Itoa(int(e.Port)))
	why := egress.Decision{Rule: e.Rule, Reason: e.Reason}.Explain()
	if text := credentialReasons[e.Reason]; text != "" {
		why = text
	}
	if e.Secret != "" {
		return sandbox.Notice{Kind: "secret", Text: fmt.Sprintf("%s was not sent to %s: %s", e.Secret, to, why), Host: host, Port: e.Port, Secret: e.Secret}
	}
	return sandbox.Notice{Kind: "refused", Text: fmt.Sprintf("%s was refused: %s", to, why), Host: host, Port: e.Port}
}

// run writes notices until ctx is done. A supervisor that cannot be written to is one that is gone.
func (n *notices) run(ctx context.Context, ready net.Conn) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case notice := <-n.queue:
			err := ready.SetWriteDeadline(time.Now().Add(noticeTimeout))
			if err == nil {
				err = sandbox.WriteNotice(ready, notice)
			}
			// Answers to orders go the same way, at any time later.
			ready.SetWriteDeadline(time.Time{}) //nolint:errcheck // a write to what is closed says so
			if err != nil {
				return fmt.Errorf("%w: %w", errSupervisorGone, err)
			}
		}
	}
}
