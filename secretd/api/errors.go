package api

import (
	"errors"
	"fmt"
	"strings"
)

// The errors that callers branch on. They keep their identity across the socket
// and the grant's channel: Code names each on the wire, FromCode brings it back.
var (
	// ErrUnknown means that no live grant of this run has the placeholder.
	ErrUnknown = errors.New("unknown placeholder")
	// ErrNotFound means that the agent or the secret does not exist.
	ErrNotFound = errors.New("not found")
	// ErrUnbound means that the secret is bound to no host at all.
	ErrUnbound = errors.New("secret is bound to no host")
	// ErrHost means that the secret is not bound to this host, port or place.
	ErrHost = errors.New("secret is not bound to this host")
	// ErrRevoked means that the secret or the grant was revoked.
	ErrRevoked = errors.New("credential revoked")
	// ErrUnavailable means that secretd cannot be reached or cannot record.
	ErrUnavailable = errors.New("secretd is unavailable")
	// ErrVersion means that the peer speaks another version of the protocol.
	ErrVersion = errors.New("secretd speaks another version of the protocol")
	// ErrDenied means that the caller may not ask this.
	ErrDenied = errors.New("permission denied")
	// ErrInvalid means that the request itself is wrong.
	ErrInvalid = errors.New("invalid")
	// ErrLocal means that agents are files of each host: no store is shared.
	ErrLocal = errors.New("agents are not shared here")
	// ErrDamaged means that what lies in a shared store is not what was put there.
	ErrDamaged = errors.New("the store's copy cannot be trusted")
)

// ErrorCode names a sentinel on the wire: one byte on the grant's channel, a word
// in JSON. Zero is no error.
type ErrorCode byte

// sentinels lists the errors by their code; the order is part of the protocol.
func sentinels() [12]error {
	return [...]error{nil, ErrUnknown, ErrNotFound, ErrUnbound, ErrHost, ErrRevoked, ErrUnavailable, ErrVersion, ErrDenied, ErrInvalid, ErrLocal, ErrDamaged}
}

// Code returns the code of the sentinel that err wraps; an error that wraps none
// is ErrUnavailable to the peer, who learns no more.
func Code(err error) ErrorCode {
	if err == nil {
		return 0
	}
	for i, sentinel := range sentinels() {
		if sentinel != nil && errors.Is(err, sentinel) {
			return ErrorCode(i)
		}
	}
	return Code(ErrUnavailable)
}

// FromCode returns the sentinel of a code; an unknown code is ErrVersion.
func FromCode(c ErrorCode) error {
	all := sentinels()
	if int(c) >= len(all) {
		return ErrVersion
	}
	return all[c]
}

// MissingError says which secrets an agent lacks, in the order asked for. It
// matches ErrNotFound.
type MissingError struct {
	Agent string   `json:"agent"`
	Names []string `json:"names"`
}

// Error names the agent and the missing secrets.
func (e *MissingError) Error() string {
	return fmt.Sprintf("agent %q lacks secret(s): %s", e.Agent, strings.Join(e.Names, ", "))
}

// Is makes a MissingError match ErrNotFound.
func (e *MissingError) Is(target error) bool { return target == ErrNotFound }
