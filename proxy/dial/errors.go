package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/superserve/superserve/proxy/egress"
)

// The steps that can fail, Error.Op.
const (
	OpResolve = "resolve" // the name has no address, or no resolver answers
	OpRefuse  = "refuse"  // the policy refuses every address; Err is a *Refused
	OpConnect = "connect"
	OpTLS     = "tls" // the handshake failed or the certificate is not good
)

// Words for why an upstream was not reached, for audit records and answers.
const (
	ReasonDNS          = "upstream_dns"
	ReasonRefused      = "upstream_refused"
	ReasonUnreachable  = "upstream_unreachable"
	ReasonTimeout      = "upstream_timeout"
	ReasonTLS          = "upstream_tls"
	ReasonTLSUntrusted = "upstream_tls_untrusted"
	ReasonTLSName      = "upstream_tls_name"
	ReasonTLSExpired   = "upstream_tls_expired"
	ReasonCancelled    = "cancelled"

	// ReasonPrefix begins every word that is about the upstream.
	ReasonPrefix = "upstream_"
)

var errNoAddress = errors.New("the name has no address")

// Error is every error of a Dialer.
type Error struct {
	Op      string // one of the Op constants
	Timeout bool
	Err     error
}

// Error returns the step and the cause. It may quote what a resolver or a peer
// said, and is for operators; an agent gets Reason.
func (e *Error) Error() string { return "upstream " + e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Reason returns one of the Reason constants, or the policy's reason.
func (e *Error) Reason() string {
	var refused *Refused
	switch {
	case errors.As(e.Err, &refused):
		return refused.Decision.Reason
	case errors.Is(e.Err, context.Canceled):
		return ReasonCancelled
	case e.Timeout:
		return ReasonTimeout
	case e.Op == OpResolve:
		return ReasonDNS
	case errors.Is(e.Err, syscall.ECONNREFUSED):
		return ReasonRefused
	case e.Op == OpTLS:
		return tlsReason(e.Err)
	}
	return ReasonUnreachable
}

func tlsReason(err error) string {
	var (
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
		verify  *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &name):
		return ReasonTLSName
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return ReasonTLSExpired
	case errors.As(err, &unknown), errors.As(err, &verify):
		return ReasonTLSUntrusted
	}
	return ReasonTLS
}

// Refused says that the policy refuses the addresses of a host.
type Refused struct{ Decision egress.Decision }

// Error returns the policy's sentence.
func (r *Refused) Error() string { return r.Decision.Explain() }

func newError(op string, err error) *Error {
	var timeout net.Error
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &timeout) && timeout.Timeout()
	return &Error{Op: op, Timeout: late, Err: err}
}
