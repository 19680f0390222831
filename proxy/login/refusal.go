package login

import (
	"errors"
	"fmt"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

// Reasons of a Refusal, beside those of packages swap and dial.
const (
	// ReasonMalformed: the client does not speak the protocol.
	ReasonMalformed = "bad_login"
	// ReasonName: the TLS server name is not the name that was connected to.
	ReasonName = "server_name_mismatch"
	// ReasonRejected: the upstream did not take the real key.
	ReasonRejected = "upstream_login"
	// ReasonUpstream: the upstream does not speak the protocol, or asks for a login
	// that is not known here.
	ReasonUpstream = "upstream_protocol"
	// ReasonNoTLS: the upstream has no TLS and the binding asks for it.
	ReasonNoTLS = "upstream_no_tls"
	// ReasonUnrecorded: the use could not be recorded.
	ReasonUnrecorded = "audit_unavailable"
)

// Refusal says why a login did not come about. It never holds a value.
type Refusal struct {
	// Verdict is audit.Failed when an upstream is the cause, else audit.Refused.
	Verdict audit.Verdict
	// Reason is one word of a fixed set.
	Reason string
	// Secret is the name of the secret, "" when none is meant.
	Secret string
	// Detail says in a sentence what happened; Advice what to do about it.
	Detail, Advice string
	// Cause is for the log; nil when there is none.
	Cause error
}

// Error returns the detail.
func (r *Refusal) Error() string { return r.Reason + ": " + r.Detail }

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Cause }

// Denied reports whether the credential is at fault: drivers then get the
// protocol's own word for a wrong password, anything else is a failed connection.
func (r *Refusal) Denied() bool {
	return r.Verdict == audit.Refused && r.Reason != swap.ReasonUnavailable && r.Reason != ReasonUnrecorded
}

// Malformed refuses a client that does not speak the protocol.
func Malformed(detail string) *Refusal {
	return &Refusal{Verdict: audit.Refused, Reason: ReasonMalformed, Detail: detail}
}

// Upstream refuses for what an upstream does not do.
func Upstream(reason, detail string, cause error) *Refusal {
	return &Refusal{Verdict: audit.Failed, Reason: reason, Detail: detail, Cause: cause}
}

// Foreign refuses a password that is no placeholder bound to the session's
// destination.
func (s *Session) Foreign() *Refusal {
	return &Refusal{
		Verdict: audit.Refused, Reason: swap.ReasonForeign,
		Detail: "the password is not the placeholder of a secret that is bound to " + s.Where(),
		Advice: "use the value of the environment variable as it is now",
	}
}

// Where returns the destination as a message may name it, with its port.
func (s *Session) Where() string {
	if s.target.Host == "" {
		return s.conn.Dest.String()
	}
	return fmt.Sprintf("%s:%d", s.target.Host, s.target.Port)
}

// failed turns an error of the Resolver into a Refusal.
func (s *Session) failed(k *Key, err error) *Refusal {
	r := &Refusal{Verdict: audit.Refused, Secret: k.Name, Cause: err}
	switch {
	case errors.Is(err, api.ErrRevoked):
		r.Reason, r.Detail = swap.ReasonRevoked, k.Name+" was revoked"
	case errors.Is(err, api.ErrUnknown):
		r.Reason, r.Detail = swap.ReasonUnknown, "the placeholder is not one of this run"
	case errors.Is(err, api.ErrUnbound), errors.Is(err, api.ErrHost):
		r.Reason, r.Detail = swap.ReasonMismatch, k.Name+" is not bound to "+s.Where()
	case errors.Is(err, errInvalid):
		r.Reason, r.Detail = swap.ReasonInvalid, "the value of "+k.Name+" has no password"
	default:
		r.Reason, r.Detail, r.Advice = swap.ReasonUnavailable, "secretd cannot be asked for "+k.Name, "run `superserve doctor`"
	}
	return r
}
