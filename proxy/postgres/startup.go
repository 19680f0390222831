package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/superserve/superserve/proxy/login"
)

// The codes that stand where a startup message has its version.
const (
	version3      = 3 << 16
	codeCancel    = 1234<<16 | 5678
	codeTLS       = 1234<<16 | 5679
	codeGSS       = 1234<<16 | 5680
	maxCancelKey  = 256 // bytes; 4 before protocol 3.2
	optionsPrefix = "_pq_."
)

// parameter is one of a startup message. Its text is the agent's.
type parameter struct{ name, value string }

// startup is what a client begins with.
type startup struct {
	version    uint32
	parameters []parameter
	cancel     []byte // process and key of a CancelRequest; nil for a session
}

// user returns the name to log in with, which is never empty in a parsed message.
func (s *startup) user() string {
	if s == nil {
		return ""
	}
	return s.get("user")
}

func (s *startup) get(name string) string {
	for _, p := range s.parameters {
		if p.name == name {
			return p.value
		}
	}
	return ""
}

var errStartup = errors.New("not a startup message")

// greet reads the client's first messages, each kind of encryption at most once,
// and ends its TLS. Nothing is read beyond a message: bytes that someone put between
// a request for TLS and its handshake are no part of a session (CVE-2021-23222).
func greet(ctx context.Context, ses *login.Session) (*startup, error) {
	if ses.Direct() {
		if err := ses.Accept(ctx, alpn); err != nil {
			return nil, err
		}
	}
	for range 3 {
		packet, err := readStartup(ses.Client)
		if err != nil {
			return nil, clientFault(err)
		}
		switch code := binary.BigEndian.Uint32(packet); {
		case code == codeTLS && len(packet) == 4 && !ses.Encrypted():
			err = offerTLS(ctx, ses)
		case code == codeGSS && len(packet) == 4 && !ses.Encrypted():
			_, err = ses.Client.Write([]byte{'N'})
		default:
			s, err := parseStartup(packet)
			return s, clientFault(err)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, clientFault(errStartup)
}

func offerTLS(ctx context.Context, ses *login.Session) error {
	if _, err := ses.Client.Write([]byte{'S'}); err != nil {
		return err
	}
	return ses.Accept(ctx, alpn)
}

// clientFault makes what was wrong with the client's bytes a Refusal. An end of the
// connection stays one.
func clientFault(err error) error {
	var broken net.Error
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &broken) {
		return err
	}
	return login.Malformed(err.Error())
}

// readStartup returns a message without a type, without its length.
func readStartup(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 8 || n > maxStartup {
		return nil, errStartup
	}
	packet := make([]byte, n-4)
	_, err := io.ReadFull(r, packet)
	return packet, err
}

// parseStartup reads a StartupMessage or a CancelRequest.
func parseStartup(packet []byte) (*startup, error) {
	if len(packet) < 4 {
		return nil, errStartup
	}
	s := &startup{version: binary.BigEndian.Uint32(packet)}
	rest := packet[4:]
	if s.version == codeCancel {
		if len(rest) < 8 || len(rest) > 4+maxCancelKey {
			return nil, errStartup
		}
		s.cancel = rest
		return s, nil
	}
	if s.version>>16 != version3>>16 {
		return nil, errors.New("the protocol's version is not 3")
	}
	for len(rest) > 1 {
		name, after, ok := bytes.Cut(rest, []byte{0})
		value, after, fine := bytes.Cut(after, []byte{0})
		if !ok || !fine || len(name) == 0 {
			return nil, errStartup
		}
		s.parameters = append(s.parameters, parameter{string(name), string(value)})
		rest = after
	}
	if len(rest) != 1 || rest[0] != 0 || s.user() == "" || s.repeats() {
		return nil, errStartup
	}
	return s, nil
}

// repeats reports whether user stands twice: which one a server takes is anyone's
// guess.
func (s *startup) repeats() bool {
	n := 0
	for _, p := range s.parameters {
		if p.name == "user" {
			n++
		}
	}
	return n > 1
}

// appendFor writes the StartupMessage for the real server, always of version 3.0
// and without the options of later ones. user "" leaves the name as it is; a server
// takes the name for the database when none is given, so that is said then.
func (s *startup) appendFor(b []byte, user string) []byte {
	body := binary.BigEndian.AppendUint32(nil, version3)
	add := func(name, value string) {
		body = append(append(body, name...), 0)
		body = append(append(body, value...), 0)
	}
	for _, p := range s.parameters {
		if p.name == "user" && user != "" {
			p.value = user
		}
		if !strings.HasPrefix(p.name, optionsPrefix) {
			add(p.name, p.value)
		}
	}
	if user != "" && user != s.user() && s.get("database") == "" {
		add("database", s.user())
	}
	body = append(body, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)+4))
	return append(b, body...)
}

// negotiate settles on version 3.0, as servers before PostgreSQL 18 do.
func negotiate(client io.Writer, s *startup) error {
	var unknown []byte
	n := uint32(0)
	for _, p := range s.parameters {
		if strings.HasPrefix(p.name, optionsPrefix) {
			unknown = append(append(unknown, p.name...), 0)
			n++
		}
	}
	if s.version == version3 && n == 0 {
		return nil
	}
	body := binary.BigEndian.AppendUint32(nil, version3)
	body = binary.BigEndian.AppendUint32(body, n)
	_, err := client.Write(appendMessage(nil, msgVersion, append(body, unknown...)))
	return err
}
