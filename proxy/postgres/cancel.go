package postgres

import (
	"context"
	"encoding/binary"
	"io"

	"github.com/superserve/superserve/proxy/login"
)

// maxCancels bounds the table of keys; more sessions than the proxy's own cap on
// connections cannot be open.
const maxCancels = 4096

// cancelTarget is where a session that can be cancelled goes.
type cancelTarget struct {
	where string
	clear bool // its upstream has no TLS
}

func (s *Server) remember(key string, t cancelTarget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.cancels) < maxCancels {
		s.cancels[key] = t
	}
}

func (s *Server) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cancels, key)
}

func (s *Server) known(key string, where string) (clear, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.cancels[key]
	return t.clear, ok && t.where == where
}

// cancel passes on a request to cancel, for a session that this run has open; others
// are ignored, as a server ignores a wrong key. libpq before 17 sends it in clear
// even where the session has TLS: what goes upstream is as the session is.
func (s *Server) cancel(ctx context.Context, ses *login.Session, key []byte) error {
	clear, ok := s.known(string(key), ses.Where())
	if !ok {
		return login.Malformed("the key of a request to cancel is not one of this run")
	}
	up, err := connect(ctx, ses, clear)
	if err != nil {
		return err
	}
	packet := binary.BigEndian.AppendUint32(nil, uint32(len(key)+8))
	packet = binary.BigEndian.AppendUint32(packet, codeCancel)
	if _, err := up.Write(append(packet, key...)); err != nil {
		return up.lost(err)
	}
	// The server closes when it has signalled; a client that waits for our close
	// then knows that as well.
	_, _ = up.Read(make([]byte, 1)) // an end is all that comes, and any end will do
	return nil
}

// lost makes the end of an upstream connection a Refusal.
func (u *upstream) lost(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return login.Upstream(login.ReasonUpstream, "the server ended the connection during the login", err)
}
