package postgres

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/locked"
)

// upstream is the connection to the real server while it logs in.
type upstream struct {
	net.Conn
	clear bool
}

// connect reaches the real server, with TLS unless clear.
func connect(ctx context.Context, ses *login.Session, clear bool) (*upstream, error) {
	if err := ses.Connect(ctx); err != nil {
		return nil, err
	}
	u := &upstream{Conn: ses.Upstream, clear: clear}
	if clear {
		return u, nil
	}
	request := binary.BigEndian.AppendUint32(nil, 8)
	if _, err := u.Write(binary.BigEndian.AppendUint32(request, codeTLS)); err != nil {
		return nil, u.lost(err)
	}
	var reply [1]byte // and no byte more: what follows is TLS
	if _, err := io.ReadFull(u, reply[:]); err != nil {
		return nil, u.lost(err)
	}
	if reply[0] != 'S' {
		return nil, login.Upstream(login.ReasonNoTLS, "the server has no TLS; the key is only sent over TLS", nil)
	}
	if err := ses.Secure(ctx, []string{alpn}); err != nil {
		return nil, err
	}
	u.Conn = ses.Upstream
	return u, nil
}

func (u *upstream) confused(detail string) error {
	return login.Upstream(login.ReasonUpstream, detail, nil)
}

// next reads a message; the server's error comes as *rejected.
func (u *upstream) next() (byte, []byte, error) {
	kind, body, err := readMessage(u, maxBody)
	switch {
	case errors.Is(err, errSize):
		return 0, nil, u.confused(err.Error())
	case err != nil:
		return 0, nil, u.lost(err)
	case kind == msgError:
		return 0, nil, newRejected(body)
	}
	return kind, body, nil
}

// nextAuth reads the next request for authentication.
func (u *upstream) nextAuth() (uint32, []byte, error) {
	for range maxMessages {
		kind, body, err := u.next()
		if err != nil {
			return 0, nil, err
		}
		if kind == msgNotice {
			continue // before the session there is nobody to tell
		}
		if kind != msgAuth || len(body) < 4 {
			break
		}
		return binary.BigEndian.Uint32(body), body[4:], nil
	}
	return 0, nil, u.confused("the server sent something else than a login")
}

// login does what the server asks for until it says that all is well.
func (u *upstream) login(s *startup, real *login.Real) error {
	if bytes.IndexByte(real.Password, 0) >= 0 || bytes.IndexByte([]byte(real.User), 0) >= 0 {
		return &login.Refusal{Verdict: audit.Refused, Reason: swap.ReasonInvalid, Detail: "the value holds a zero byte"}
	}
	if _, err := u.Write(s.appendFor(nil, real.User)); err != nil {
		return u.lost(err)
	}
	kind, data, err := u.nextAuth()
	if err != nil || kind == authOK {
		return err // a server that trusts this host or its certificate
	}
	user := real.User
	if user == "" {
		user = s.user()
	}
	switch {
	case kind == authClear:
		err = u.sendPassword(append(bytes.Clone(real.Password), 0))
	case kind == authMD5 && len(data) == 4:
		err = u.sendPassword(md5Answer(real.Password, user, data))
	case kind == authSASL:
		err = u.scram(data, real.Password)
	default:
		return u.confused(fmt.Sprintf("the server asks for a login of kind %d, which is not known here", kind))
	}
	if err != nil {
		return err
	}
	if kind, _, err = u.nextAuth(); err == nil && kind != authOK {
		err = u.confused("the server did not end its login")
	}
	return err
}

// sendPassword sends a PasswordMessage and wipes it.
func (u *upstream) sendPassword(body []byte) error {
	message := appendMessage(make([]byte, 0, len(body)+5), msgPassword, body)
	_, err := u.Write(message)
	locked.Wipe(body)
	locked.Wipe(message)
	if err != nil {
		return u.lost(err)
	}
	return nil
}

// md5Answer is "md5" and md5(md5(password, user), salt) in hex, and a zero.
func md5Answer(password []byte, user string, salt []byte) []byte {
	both := append(append(make([]byte, 0, len(password)+len(user)), password...), user...)
	inner := md5.Sum(both)
	locked.Wipe(both)
	text := hex.AppendEncode(nil, inner[:])
	outer := md5.Sum(append(text, salt...))
	return append(hex.AppendEncode([]byte("md5"), outer[:]), 0)
}

// scram logs in with SCRAM-SHA-256, bound to the TLS channel where that is offered.
func (u *upstream) scram(mechanisms, password []byte) error {
	c := newScramClient(password)
	switch {
	case offers(mechanisms, scramPlus) && u.binding() != nil:
		c.bind(u.binding())
	case !offers(mechanisms, scramPlain):
		return u.confused("the server offers no mechanism that is known here")
	case u.binding() != nil:
		c.gs2 = "y,," // we could have bound it: a server that could as well sees that someone took its offer away
	}
	if err := u.sendPassword(c.first()); err != nil {
		return err
	}
	kind, data, err := u.nextAuth()
	if err != nil {
		return err
	}
	final, err := c.final(data)
	if kind != authSASLMore || err != nil {
		return u.confused("the server's SCRAM message is malformed")
	}
	if err := u.sendPassword(final); err != nil {
		return err
	}
	if kind, data, err = u.nextAuth(); err != nil {
		return err
	}
	if kind != authSASLFinal || !c.verify(data) {
		return u.confused("the server does not know the password itself")
	}
	return nil
}

// offers reports whether a list of zero-terminated names holds name.
func offers(mechanisms []byte, name string) bool {
	for m := range bytes.SplitSeq(mechanisms, []byte{0}) {
		if string(m) == name {
			return true
		}
	}
	return false
}

// binding returns the hash that binds SCRAM to this TLS channel, nil without TLS.
func (u *upstream) binding() []byte {
	client, ok := u.Conn.(*tls.Conn)
	if !ok || len(client.ConnectionState().PeerCertificates) == 0 {
		return nil
	}
	return endPoint(client.ConnectionState().PeerCertificates[0])
}
