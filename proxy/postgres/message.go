package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/swap"
)

// Limits of what is read before the relay begins. Sizes are in bytes and the
// server's own: MAX_STARTUP_PACKET_LENGTH, and PG_MAX_SASL_MESSAGE_LENGTH with room
// for a long user name.
const (
	maxStartup  = 10000
	maxAuth     = 4096
	maxBody     = 64 << 10
	maxMessages = 1000
)

// The types of messages that are looked at.
const (
	msgAuth       = 'R'
	msgPassword   = 'p' // and SASL answers
	msgError      = 'E'
	msgNotice     = 'N'
	msgBackendKey = 'K'
	msgReady      = 'Z'
	msgVersion    = 'v'
)

// The kinds of msgAuth.
const (
	authOK        = 0
	authClear     = 3
	authMD5       = 5
	authSASL      = 10
	authSASLMore  = 11
	authSASLFinal = 12
)

var errSize = errors.New("a message has an impossible length")

// readMessage reads one message with a type and a body of at most most bytes.
func readMessage(r io.Reader, most int) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int64(binary.BigEndian.Uint32(head[1:])) - 4
	if n < 0 || n > int64(most) {
		return 0, nil, errSize
	}
	body = make([]byte, n)
	_, err = io.ReadFull(r, body)
	return head[0], body, err
}

func appendMessage(b []byte, kind byte, body []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)+4))
	return append(b, body...)
}

func appendAuth(b []byte, kind uint32, data []byte) []byte {
	return appendMessage(b, msgAuth, append(binary.BigEndian.AppendUint32(nil, kind), data...))
}

// rejected is the real server's own error, which the agent gets as it came: it
// names the fault and, as any server's does, the user.
type rejected struct {
	*login.Refusal
	body []byte
}

func (r *rejected) Unwrap() error { return r.Refusal }

func newRejected(body []byte) *rejected {
	return &rejected{login.Upstream(login.ReasonRejected, "the server refused the login", nil), body}
}

// answer tells the client why there is no session, and returns err.
func answer(client io.Writer, user string, err error) error {
	var own *rejected
	var refusal *login.Refusal
	var message []byte
	switch {
	case errors.As(err, &own):
		message = appendMessage(nil, msgError, own.body)
	case errors.As(err, &refusal):
		message = appendRefusal(nil, user, refusal)
	default:
		return err // the client is gone
	}
	if _, failed := client.Write(message); failed != nil {
		return errors.Join(err, failed)
	}
	return err
}

// appendRefusal writes an ErrorResponse with the SQLSTATE that drivers look at.
func appendRefusal(b []byte, user string, r *login.Refusal) []byte {
	code, text, detail := "28000", "superserve: "+r.Detail, ""
	switch {
	case r.Reason == login.ReasonMalformed:
		code = "08P01" // protocol_violation
	case r.Verdict == audit.Failed:
		code = "08006" // connection_failure
	case !r.Denied():
		code = "57P03" // cannot_connect_now
	case r.Reason != swap.ReasonPlaintext && r.Reason != login.ReasonName:
		code, text, detail = "28P01", fmt.Sprintf("password authentication failed for user %q", user), "superserve: "+r.Detail
	}
	var body []byte
	field := func(kind byte, text string) {
		if text != "" {
			body = append(append(append(body, kind), text...), 0)
		}
	}
	field('S', "FATAL")
	field('V', "FATAL")
	field('C', code)
	field('M', text)
	field('D', detail)
	field('H', r.Advice)
	return appendMessage(b, msgError, append(body, 0))
}
