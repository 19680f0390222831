package secretd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
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

// door is one socket: its verbs, and who may use them. net/http reads only the head
// of each request; the connection is then taken over, because a descriptor has to go
// with the reply, and because the buffer that held a value has to be wiped.
type door struct {
	log    *zap.Logger
	admits func(caller) bool
	server *http.Server
	slots  chan struct{}  // one a connection
	wait   sync.WaitGroup // for exchanges
}

type connKey struct{}

func newDoor(logger *zap.Logger, routes map[string]route, admits func(caller) bool) *door {
	s := &door{log: logger, admits: admits, slots: make(chan struct{}, maxConns)}
	mux := http.NewServeMux()
	for pattern, r := range routes {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) { s.handle(w, req, r) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		s.handle(w, req, route{verb: unknownVerb})
	})
	s.server = &http.Server{
		Handler: mux, MaxHeaderBytes: maxHead,
		ReadHeaderTimeout: exchangeTimeout, IdleTimeout: exchangeTimeout,
		ErrorLog: log.New(io.Discard, "", 0), // it would print bytes of the wire
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	return s
}

func (s *door) serve(l net.Listener) error {
	return s.server.Serve(&limited{Listener: l, slots: s.slots})
}

// stop closes what is idle and waits for the exchanges that run.
func (s *door) stop() {
	s.server.Close()
	s.wait.Wait()
}

// handle takes over the connection and makes one exchange on it.
func (s *door) handle(w http.ResponseWriter, r *http.Request, to route) {
	s.wait.Add(1)
	defer s.wait.Done()
	conn, ok := r.Context().Value(connKey{}).(*slotConn)
	if !ok {
		return
	}
	_, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer wipeReader(rw.Reader)
	if err := conn.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		conn.Close()
		return
	}
	c := &exchange{Request: r, conn: conn.UnixConn}
	reply, err := s.run(c, rw.Reader, to)
	if err == nil && c.takeover != nil && hand(c) {
		conn.free()
		return
	}
	s.answer(c, reply, err)
	conn.Close()
}

// run checks who asks and reads the request, then calls the verb.
func (s *door) run(c *exchange, body io.Reader, to route) (any, error) {
	if v := c.Header.Get(api.VersionHeader); v != strconv.Itoa(api.Version) {
		return nil, fmt.Errorf("this secretd has protocol %d: %w", api.Version, api.ErrVersion)
	}
	var err error
	if c.who, err = peerOf(c.conn); err != nil || !s.admits(c.who) {
		return nil, fmt.Errorf("secretd answers to root and to the group %s: %w", adminGroup, api.ErrDenied)
	}
	if c.ContentLength < 0 || c.ContentLength > to.most || len(c.TransferEncoding) > 0 {
		return nil, fmt.Errorf("request body: %w: give its length, at most %d bytes", api.ErrInvalid, to.most)
	}
	c.body = make([]byte, c.ContentLength)
	defer locked.Wipe(c.body)
	if _, err := io.ReadFull(body, c.body); err != nil {
		return nil, fmt.Errorf("request body is cut: %w", api.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(context.Background(), exchangeTimeout)
	defer cancel()
	return to.verb(ctx, c)
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
	payload, err := json.Marshal(reply)
	if err != nil {
		s.log.Error("cannot encode reply", zap.Error(err))
		return
	}
	defer locked.Wipe(payload)
	out := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nConnection: close\r\n%s: %d\r\nContent-Length: %d\r\n\r\n",
		status, http.StatusText(status), api.VersionHeader, api.Version, len(payload))
	var rights []byte
	if c.send != nil {
		rights = unix.UnixRights(int(c.send.Fd()))
	}
	// The descriptor goes with the first byte; when this fails, closing our copy of
	// the proxy's end ends the grant.
	if _, _, err := c.conn.WriteMsgUnix(out, rights, nil); err != nil {
		return
	}
	_, _ = c.conn.Write(payload)
}

// refusal makes the reply of an error. Errors of package api are the caller's to
// see; the words of others stay in the log.
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
	}
	s.log.Error("verb", zap.Error(err))
	reply.Message = api.FromCode(code).Error() + "; its log says why"
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

// limited accepts as many connections as there are slots and closes the others at
// once: a queue would let a few slow ones hold up everybody.
type limited struct {
	net.Listener
	slots chan struct{}
}

// Accept returns the next connection that has a slot.
func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		u, ok := conn.(*net.UnixConn)
		if !ok {
			conn.Close()
			return nil, errors.New("not a unix socket")
		}
		select {
		case l.slots <- struct{}{}:
			return &slotConn{UnixConn: u, free: sync.OnceFunc(func() { <-l.slots })}, nil
		default:
			conn.Close()
		}
	}
}

// slotConn gives its slot back when it is closed.
type slotConn struct {
	*net.UnixConn
	free func()
}

// Close closes the connection.
func (c *slotConn) Close() error {
	defer c.free()
	return c.UnixConn.Close()
}
