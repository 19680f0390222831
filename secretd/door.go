package secretd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/locked"
)

// door is one socket: its verbs, and who may use them. It makes one exchange on each
// connection and reads requests itself with net/http's parser: http.Server would keep
// the buffer that held a value, cannot send a descriptor with a reply, and leaves
// goroutines behind (500 ms after a head that was too long).
type door struct {
	log *zap.Logger
	// identify returns who connected, who may then use the verbs. The error of one who
	// may not wraps api.ErrDenied; with any other there is no answer.
	identify func(context.Context, net.Conn) (caller, error)
	mux      *http.ServeMux
	slots    chan struct{} // one a connection
	ctx      context.Context
	cancel   context.CancelFunc
	wait     sync.WaitGroup
}

func newDoor(logger *zap.Logger, routes map[string]route, identify func(context.Context, net.Conn) (caller, error)) *door {
	ctx, cancel := context.WithCancel(context.Background())
	s := &door{log: logger, identify: identify, mux: http.NewServeMux(), slots: make(chan struct{}, maxConns), ctx: ctx, cancel: cancel}
	for pattern, r := range routes {
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			c := w.(routed)
			c.Request, c.to = req, r
		})
	}
	return s
}

// serve accepts until l is closed. It takes as many connections as there are slots
// and closes the others at once: a queue would let a few slow ones hold up everybody.
func (s *door) serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		select {
		case s.slots <- struct{}{}:
			s.wait.Go(func() { s.handle(conn) })
		default:
			conn.Close()
		}
	}
}

// stop ends the exchanges that run and waits for them. serve has returned before.
func (s *door) stop() {
	s.cancel()
	s.wait.Wait()
}

// handle makes one exchange and closes the connection, unless the verb took it over.
func (s *door) handle(conn net.Conn) {
	defer func() { <-s.slots }()
	ended := context.AfterFunc(s.ctx, func() { conn.Close() })
	defer ended()
	if err := conn.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		conn.Close()
		return
	}
	c := &exchange{conn: conn, to: route{verb: unknownVerb}}
	var err error
	if c.who, err = s.identify(s.ctx, conn); err != nil && !errors.Is(err, api.ErrDenied) {
		s.log.Debug("not identified", zap.Error(err))
		conn.Close()
		return
	}
	denied := err
	limit := &io.LimitedReader{R: conn, N: maxHead}
	in := bufio.NewReaderSize(limit, readBuffer)
	defer wipeReader(in)
	if c.Request, err = http.ReadRequest(in); err != nil {
		conn.Close()
		return
	}
	s.mux.ServeHTTP(routed{c}, c.Request)
	limit.N = max(c.ContentLength, 0)
	reply, err := s.run(c, in, denied)
	wipeReader(in) // before who sent a value hears that it is kept
	if err == nil && c.takeover != nil && ended() && hand(c) {
		return
	}
	s.answer(c, reply, err)
	conn.Close()
}

// routed is what ServeMux needs to route an exchange. The mux's own answers (not
// found, redirections) go nowhere, and the verb stays unknown.
type routed struct{ *exchange }

// Header returns fields that nobody reads.
func (routed) Header() http.Header { return http.Header{} }

// Write takes nothing.
func (routed) Write(p []byte) (int, error) { return len(p), nil }

// WriteHeader takes nothing.
func (routed) WriteHeader(int) {}

// run reads the request of one who was not denied, then calls the verb.
func (s *door) run(c *exchange, body io.Reader, denied error) (any, error) {
	if v := c.Header.Get(api.VersionHeader); v != strconv.Itoa(api.Version) {
		return nil, fmt.Errorf("this secretd has protocol %d: %w", api.Version, api.ErrVersion)
	}
	if denied != nil {
		return nil, denied
	}
	if c.ContentLength < 0 || c.ContentLength > c.to.most || len(c.TransferEncoding) > 0 {
		return nil, fmt.Errorf("request body: %w: give its length, at most %d bytes", api.ErrInvalid, c.to.most)
	}
	c.body = make([]byte, c.ContentLength)
	defer locked.Wipe(c.body)
	if _, err := io.ReadFull(body, c.body); err != nil {
		return nil, fmt.Errorf("request body is cut: %w", api.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(s.ctx, exchangeTimeout)
	defer cancel()
	return c.to.verb(ctx, c)
}

// hand gives the connection to a verb that takes it over, or reports that it broke.
func hand(c *exchange) bool {
	head := fmt.Sprintf("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n%s: %d\r\n\r\n", api.VersionHeader, api.Version)
	if _, err := io.WriteString(c.conn, head); err != nil {
		return false
	}
	if err := c.conn.SetDeadline(time.Time{}); err != nil {
		return false
	}
	c.takeover(c.conn)
	return true
}

// answer writes the reply, and with it the descriptor if there is one.
func (s *door) answer(c *exchange, reply any, err error) {
	if c.send != nil {
		defer c.send.Close()
	}
	status := http.StatusOK
	if err != nil {
		status, reply = s.refusal(err)
	}
	payload, bare := reply.(raw)
	kind := "application/octet-stream"
	if !bare {
		kind = "application/json"
		var err error
		if payload, err = json.Marshal(reply); err != nil {
			s.log.Error("cannot encode reply", zap.Error(err))
			return
		}
	}
	defer locked.Wipe(payload)
	out := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: "+kind+"\r\nConnection: close\r\n%s: %d\r\nContent-Length: %d\r\n\r\n",
		status, http.StatusText(status), api.VersionHeader, api.Version, len(payload))
	var rights []byte // no verb of a door that is no unix socket has any
	if c.send != nil {
		rights = unix.UnixRights(int(c.send.Fd()))
	}
	if u, ok := c.conn.(*net.UnixConn); ok {
		// The descriptor goes with the first byte; when this fails, closing our copy of
		// the proxy's end ends the grant.
		_, _, err = u.WriteMsgUnix(out, rights, nil)
	} else {
		_, err = c.conn.Write(out)
	}
	if err != nil {
		return
	}
	_, _ = c.conn.Write(payload)
}

// refusal makes the reply of an error. Errors of package api are the caller's to
// see; of others only the kernel's word for it (a full disk), the rest stays in the log.
func (s *door) refusal(err error) (int, api.ErrorReply) {
	code := api.Code(err)
	reply := api.ErrorReply{Code: code, Message: err.Error()}
	var missing *api.MissingError
	if errors.As(err, &missing) {
		reply.Missing = missing
	}
	switch api.FromCode(code) {
	case api.ErrNotFound, api.ErrUnknown:
		return http.StatusNotFound, reply
	case api.ErrDenied:
		return http.StatusForbidden, reply
	case api.ErrInvalid, api.ErrVersion:
		return http.StatusBadRequest, reply
	case api.ErrLocal:
		return http.StatusConflict, reply
	case api.ErrDamaged:
		s.log.Error("the shared store was changed from outside", zap.Error(err))
		return http.StatusConflict, reply
	}
	s.log.Error("verb", zap.Error(err))
	reply.Message = api.FromCode(code).Error() + "; its log says why"
	var errno unix.Errno
	if errors.As(err, &errno) {
		reply.Message = api.FromCode(code).Error() + ": " + errno.Error()
	}
	return http.StatusServiceUnavailable, reply
}

// wipeReader overwrites a reader's buffer, which may hold a part of a value.
func wipeReader(r *bufio.Reader) {
	r.Reset(zeros{})
	_, _ = r.Peek(r.Size())
}

// zeros reads as zeros for ever.
type zeros struct{}

// Read fills p with zeros.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
