package swap

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/superserve/superserve/secretd/api"
)

// The reasons of a Refusal. They are part of the interface to agents: they stand
// in X-Superserve-Error, in the body and in the audit log, and do not change.
const (
	// ReasonMismatch: a placeholder was sent to a host that its secret is not bound to.
	ReasonMismatch = "credential_host_mismatch"
	// ReasonUnbound: a placeholder of a secret that is bound to no host at all.
	ReasonUnbound = "credential_unbound"
	// ReasonUnknown: a placeholder of this run's kind that stands for nothing.
	ReasonUnknown = "credential_unknown"
	// ReasonPlace: a placeholder in a field or form that its binding does not allow.
	ReasonPlace = "credential_place"
	// ReasonPlaintext: a placeholder on a connection without TLS.
	ReasonPlaintext = "credential_plaintext"
	// ReasonForeign: a credential of the agent's own on a bound host.
	ReasonForeign = "credential_not_allowed"
	// ReasonDuplicate: two credential fields of one name.
	ReasonDuplicate = "credential_duplicate"
	// ReasonRevoked: the secret was deleted.
	ReasonRevoked = "credential_revoked"
	// ReasonUnavailable: secretd cannot be asked.
	ReasonUnavailable = "credential_unavailable"
	// ReasonSignature: a signature names a placeholder, but was not made with one.
	ReasonSignature = "credential_signature"
	// ReasonScheme: a signature of a kind that is not made anew.
	ReasonScheme = "credential_scheme"
	// ReasonLong: a signature of a content that is too long to be read before it is sent.
	ReasonLong = "signed_content_too_long"
	// ReasonUncaptured: an answer that may hold tokens cannot be searched for them.
	ReasonUncaptured = "credential_uncaptured"
	// ReasonInvalid: the stored value cannot stand in that field.
	ReasonInvalid = "credential_invalid"
)

// Refusal says why a request is not sent. It never holds a value.
type Refusal struct {
	// Status is the HTTP status to answer with.
	Status int
	// Reason is one of the Reason constants, or one of the caller's own.
	Reason string
	// Secret is the name of the secret, empty when none is meant.
	Secret string
	// Detail says in a sentence what happened; Advice what to do about it.
	Detail, Advice string
}

// Body returns the answer's JSON, in the shape that the SDKs of LLM providers
// print: {"error":{"type":"superserve","reason":…,"secret":…,"message":…,
// "advice":…}} and a newline. The names are stable.
func (r Refusal) Body() []byte {
	type fields struct {
		Type    string `json:"type"`
		Reason  string `json:"reason"`
		Secret  string `json:"secret,omitempty"`
		Message string `json:"message"`
		Advice  string `json:"advice,omitempty"`
	}
	body, err := json.Marshal(struct {
		Error fields `json:"error"`
	}{fields{"superserve", r.Reason, r.Secret, r.Detail, r.Advice}})
	if err != nil {
		panic("swap: marshal strings: " + err.Error())
	}
	return append(body, '\n')
}

func forbid(reason string, e *entry, detail, advice string) *Refusal {
	name := ""
	if e != nil {
		name = e.Name
	}
	return &Refusal{Status: http.StatusForbidden, Reason: reason, Secret: name, Detail: detail, Advice: advice}
}

// where names a target as the bind command takes it.
func where(t *Target) string {
	name := string(t.Host)
	if t.Host == "" {
		name = t.Addr.Unmap().String()
		if t.Addr.Unmap().Is6() {
			name = "[" + name + "]"
		}
	}
	if t.Port != api.DefaultPort {
		return fmt.Sprintf("%s:%d", name, t.Port)
	}
	return name
}

// bind is the command that would let a secret go to t.
func (s *Swapper) bind(t *Target, e *entry, more string) string {
	return fmt.Sprintf("run `superserve secrets bind %s %s --host %s%s`", s.agent, e.Name, where(t), more)
}

func (s *Swapper) unbound(t *Target, e *entry) *Refusal {
	return forbid(ReasonUnbound, e, e.Name+" is bound to no host, so its placeholder stands for nothing",
		s.bind(t, e, ""))
}

func (s *Swapper) mismatch(t *Target, e *entry) *Refusal {
	return forbid(ReasonMismatch, e, fmt.Sprintf("%s is not bound to %s", e.Name, where(t)),
		"if it should be, "+s.bind(t, e, ""))
}

func (s *Swapper) plaintext(t *Target, e *entry) *Refusal {
	return forbid(ReasonPlaintext, e, e.Name+" is only sent over TLS", "use https")
}

func (s *Swapper) place(t *Target, f *finding, e *entry) *Refusal {
	return forbid(ReasonPlace, e, fmt.Sprintf("the binding of %s does not let it stand like this in %s", e.Name, f.name),
		"if it should, "+s.bind(t, e, " --use "+f.suggest()))
}

// suggest names the use that would have let the field pass.
func (f *finding) suggest() string {
	switch {
	case f.site != atField:
		return f.use.String()
	case f.basic:
		return string(api.UseBasic)
	case f.count == 1:
		return f.parts[0].use.String()
	}
	return api.Use{Kind: api.UseHeader, Arg: f.name}.String()
}

func (s *Swapper) unknown(f *finding) *Refusal {
	return forbid(ReasonUnknown, nil, "the placeholder in "+f.name+" is not one of this run",
		"send the value of the environment variable as it is now")
}

func (s *Swapper) unsigned(f *finding) *Refusal {
	return forbid(ReasonSignature, f.about, "the signature in "+f.name+" was not made with the placeholder of its secret key",
		"use access key and secret key of one environment, as they are now")
}

func (s *Swapper) unsignedToken(f *finding) *Refusal {
	return forbid(ReasonSignature, f.about, "the token (JWT) in "+f.name+" was not signed with the placeholder of "+f.about.Name,
		"sign it with the value of the environment variable as it is now, by HS, RS, PS, ES or EdDSA; never alg none")
}

func (s *Swapper) unknownScheme(f *finding) *Refusal {
	if f.kind == badStream {
		return forbid(ReasonScheme, f.parts[f.count-1].entry, "the content's own signatures are of a kind that cannot be made anew with the real key",
			"sign it as one content, or in chunks with AWS4-HMAC-SHA256")
	}
	return forbid(ReasonScheme, f.about, "the signature in "+f.name+" is of a kind that cannot be made anew with the real key",
		"sign with AWS Signature Version 4 (AWS4-HMAC-SHA256), not SigV4A or Version 2")
}

func (s *Swapper) foreign(t *Target, f *finding, e *entry) *Refusal {
	return forbid(ReasonForeign, e, fmt.Sprintf("the credential in %s is not the placeholder of a secret that is bound to %s", f.name, where(t)),
		fmt.Sprintf("send the placeholder of %s, or set allow_own for it", e.Name))
}

func duplicate(f *finding) *Refusal {
	return forbid(ReasonDuplicate, nil, "the request has "+f.name+" more than once", "send it once")
}

// failed turns an error of the Resolver or of check into a Refusal.
func (s *Swapper) failed(t *Target, f *finding, e *entry, err error) *Refusal {
	switch {
	case errors.Is(err, api.ErrRevoked):
		return &Refusal{http.StatusServiceUnavailable, ReasonRevoked, e.Name, e.Name + " was revoked",
			fmt.Sprintf("set it again: `superserve secrets set %s %s=…`", s.agent, e.Name)}
	case errors.Is(err, api.ErrUnknown):
		return s.unknown(f)
	case errors.Is(err, api.ErrUnbound):
		return s.unbound(t, e)
	case errors.Is(err, api.ErrHost):
		return s.mismatch(t, e)
	case errors.Is(err, errShort), errors.Is(err, errBytes), errors.Is(err, errColon), errors.Is(err, errPlace), errors.Is(err, errKind):
		return forbid(ReasonInvalid, e, fmt.Sprintf("the value of %s cannot stand in %s: it %s", e.Name, f.name, err),
			fmt.Sprintf("set it again: `superserve secrets set %s %s=…`", s.agent, e.Name))
	}
	return &Refusal{http.StatusServiceUnavailable, ReasonUnavailable, e.Name, "secretd cannot be asked for " + e.Name,
		"run `superserve doctor`"}
}
