package mysql

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/locked"
)

// maxPacket bounds a packet of the login, in bytes: attributes are at most 64 KiB.
const maxPacket = 128 << 10

// The first bytes of packets.
const (
	packetOK     = 0x00
	packetMore   = 0x01
	packetSwitch = 0xfe
	packetError  = 0xff

	commandChangeUser = 0x11
)

var errPacket = errors.New("a packet is malformed")

// packets are the packets of one side during the login. Each is numbered, and the
// sides take turns.
type packets struct {
	side     net.Conn
	upstream bool
	seq      byte
}

// read returns the next packet, which is not empty. Nothing is read beyond it: TLS may
// follow.
func (p *packets) read() ([]byte, error) {
	body, err := p.readProof()
	if err == nil && len(body) == 0 {
		err = p.broken(errPacket)
	}
	return body, err
}

// readProof returns the next packet, which is empty for an empty password.
func (p *packets) readProof() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(p.side, head[:]); err != nil {
		return nil, p.broken(err)
	}
	n := int(head[0]) | int(head[1])<<8 | int(head[2])<<16
	if n > maxPacket || head[3] != p.seq {
		return nil, p.broken(errPacket)
	}
	p.seq++
	body := make([]byte, n)
	_, err := io.ReadFull(p.side, body)
	return body, p.broken(err)
}

func (p *packets) write(body []byte) error {
	packet := make([]byte, 0, 4+len(body))
	packet = append(packet, byte(len(body)), byte(len(body)>>8), byte(len(body)>>16), p.seq)
	packet = append(packet, body...)
	defer locked.Wipe(packet) // some hold a password
	p.seq++
	_, err := p.side.Write(packet)
	return p.broken(err)
}

// broken makes an error of a side what it means: an end of the client's side stays
// one.
func (p *packets) broken(err error) error {
	switch {
	case err == nil:
		return nil
	case p.upstream && errors.Is(err, errPacket):
		return login.Upstream(login.ReasonUpstream, "the server's packets are malformed", nil)
	case p.upstream:
		return login.Upstream(login.ReasonUpstream, "the server ended the connection during the login", err)
	case errors.Is(err, errPacket):
		return login.Malformed("the client's packets are malformed")
	}
	return err
}

// rejected is the real server's own error, which the agent gets as it came.
type rejected struct {
	*login.Refusal
	body []byte
}

func (r *rejected) Unwrap() error { return r.Refusal }

func newRejected(body []byte) *rejected {
	return &rejected{login.Upstream(login.ReasonRejected, "the server refused the login", nil), body}
}

// answer tells the client why there is no session, and returns err.
func answer(down *packets, r *response, err error) error {
	var own *rejected
	var refusal *login.Refusal
	var body []byte
	switch {
	case errors.As(err, &own):
		body = own.body
	case errors.As(err, &refusal):
		body = refusalPacket(down, r, refusal)
	default:
		return err // the client is gone
	}
	return errors.Join(err, down.write(body))
}

// refusalPacket has the codes that drivers look at. Before the greeting there is no
// SQLSTATE.
func refusalPacket(down *packets, r *response, refusal *login.Refusal) []byte {
	code, state, text := uint16(1105), "HY000", "superserve: "+refusal.Detail // ER_UNKNOWN_ERROR
	switch {
	case refusal.Reason == login.ReasonMalformed:
		code, state = 1043, "08S01" // ER_HANDSHAKE_ERROR
	case refusal.Verdict != audit.Failed && refusal.Denied() && refusal.Reason != swap.ReasonPlaintext && r != nil:
		code, state = 1045, "28000" // ER_ACCESS_DENIED_ERROR
		text = fmt.Sprintf("Access denied for user '%s'@'superserve' (using password: YES): %s", r.user, refusal.Detail)
	}
	body := binary.LittleEndian.AppendUint16([]byte{packetError}, code)
	if down.seq > 0 {
		body = append(append(body, '#'), state...)
	}
	return append(body, text...)
}

// framer follows the client's packets after the login and finds a second login among
// them: its password is proved to a scramble that only one of the two sides knows.
// Packets that go on with a command, or with a file that a server asked for, have
// other numbers than 0 (until 256 have passed: 4 GiB of a command).
type framer struct {
	head []byte // of a packet, and its first byte
	left int    // bytes of the packet that are still to come
}

// pass is a ferry.Look that lets all by but that.
func (f *framer) pass(p []byte, _ bool) (out []byte, later func(), err error) {
	if err := f.look(p); err != nil {
		return nil, nil, err
	}
	return p, nil, nil
}

func (f *framer) look(p []byte) error {
	for len(p) > 0 {
		if n := min(f.left, len(p)); n > 0 {
			f.left, p = f.left-n, p[n:]
			continue
		}
		f.head, p = append(f.head, p[0]), p[1:]
		if len(f.head) < 4 {
			continue
		}
		n := int(f.head[0]) | int(f.head[1])<<8 | int(f.head[2])<<16
		if n > 0 && len(f.head) == 4 {
			continue
		}
		if n > 0 && f.head[3] == 0 && f.head[4] == commandChangeUser {
			return &login.Refusal{Verdict: audit.Refused, Reason: swap.ReasonPlace, Detail: "a second login on one connection"}
		}
		f.head, f.left = f.head[:0], max(n-1, 0)
	}
	return nil
}
