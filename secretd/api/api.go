// Package api holds the words that cross secretd's socket and a run's grant,
// and the canonical names of hosts that every decision is made on.
//
// It depends on the standard library only, so that the proxy, the runtime and
// the command line can share it without linking any part of the daemon.
package api

import "time"

// Version is the version of the protocol spoken on secretd's socket and on the
// grant's channel. Peers of different versions refuse each other (ErrVersion)
// rather than guess.
const Version = 1

// Limits of what a peer may send. Sizes are in bytes.
const (
	// MaxValue is the longest secret value.
	MaxValue = 64 << 10
	// MaxName is the longest name of a secret.
	MaxName = 256
	// MaxSecrets is the largest number of secrets of one agent or one run.
	MaxSecrets = 256
	// MaxHosts is the largest number of host patterns of one binding.
	MaxHosts = 64
	// MaxUses is the largest number of uses of one binding.
	MaxUses = 16
)

// Secret reveals the value that was leased. The slice belongs to the secret: it is
// read-only and must not be kept beyond the line that sends it. A Secret goes on
// revealing its own value after a rotation or revocation, because answers still in
// flight have to be searched for it; what decides whether it may be sent is the
// next Resolve.
type Secret func() []byte

// String keeps a Secret out of every log line and error.
func (Secret) String() string { return "[secret]" }

// GoString keeps a Secret out of every %#v.
func (Secret) GoString() string { return "[secret]" }

// Binding says where a secret may go. The zero value is unbound: its placeholder
// is injected but never swapped.
type Binding struct {
	// Hosts are the destinations. None means unbound.
	Hosts []Pattern `json:"hosts,omitempty"`
	// Uses are the places in a request that carry the secret. None means the
	// default: credential headers only.
	Uses []Use `json:"use,omitempty"`
	// AllowOwn lets the agent send a credential of its own to a bound host.
	AllowOwn bool `json:"allow_own,omitempty"`
	// Plaintext lets the secret travel without TLS.
	Plaintext bool `json:"plaintext,omitempty"`
}

// Bound reports whether the binding names any host.
func (b Binding) Bound() bool { return len(b.Hosts) > 0 }

// Entry is one secret of one run, without its value.
type Entry struct {
	Name        string  `json:"name"`
	Placeholder string  `json:"placeholder"`
	Binding     Binding `json:"binding"`
	// Exposed is true when the agent holds the real value.
	Exposed bool   `json:"exposed,omitempty"`
	Limits  Limits `json:"limits,omitzero"`
	// Expires is when the value does, zero when nobody said.
	Expires time.Time `json:"expires,omitzero"`
}

// Wanted is one secret that a run asks for.
type Wanted struct {
	Name string `json:"name"`
	// Binding is the override of superserve.yaml; nil takes the stored binding,
	// else the value's own, else the preset of the name.
	Binding *Binding `json:"binding,omitempty"`
	// Expose asks for the real value instead of a placeholder.
	Expose bool `json:"expose,omitempty"`
	// Limits bound what this run may use.
	Limits Limits `json:"limits,omitzero"`
}

// GrantRequest asks for the secrets of one run of one agent.
type GrantRequest struct {
	Agent   string   `json:"agent"`
	Run     string   `json:"run"`
	Secrets []Wanted `json:"secrets"`
}

// GrantReply answers a GrantRequest; the channel travels beside it as a
// descriptor. Resume is 256 bits in hex: whoever holds it may reopen the channel
// after a restart of secretd. Exposed holds the real values of the secrets that
// were asked for with Expose; the caller wipes them.
type GrantReply struct {
	Entries []Entry           `json:"entries"`
	Resume  string            `json:"resume"`
	Exposed map[string][]byte `json:"exposed,omitempty"`
}

// ResolveRequest asks for the value behind a placeholder, for one destination.
// Exactly one of Host and Addr is set: Addr is the IP literal that an agent
// connected to without a name, in netip.Addr's text form.
type ResolveRequest struct {
	Placeholder string `json:"placeholder"`
	Host        Host   `json:"host,omitempty"`
	Addr        string `json:"addr,omitempty"`
	Port        uint16 `json:"port"`
	Use         Use    `json:"use"`
}

// ChangeKind names what happened to a secret while a run holds a grant on it.
type ChangeKind string

// The kinds of Change.
const (
	// Rotated means that the value is another one now; the placeholder stays.
	Rotated ChangeKind = "rotated"
	// Revoked means that the secret was deleted or its grant ended.
	Revoked ChangeKind = "revoked"
)

// Change is what secretd pushes to the runs that hold a grant on a secret.
type Change struct {
	Name string     `json:"name"`
	Kind ChangeKind `json:"kind"`
	// Cut asks to end the streams that carry the secret now.
	Cut bool `json:"cut,omitempty"`
}

// Setting is one secret to store. A nil Binding keeps the stored one.
type Setting struct {
	Name    string   `json:"name"`
	Value   []byte   `json:"value"`
	Binding *Binding `json:"binding,omitempty"`
	// AllowShort accepts a value of fewer than 8 bytes, which answers cannot be
	// searched for without harm to ordinary text.
	AllowShort bool `json:"allow_short,omitempty"`
	// Expires is when the value does, zero when nobody said.
	Expires time.Time `json:"expires,omitzero"`
}

// Info describes a stored secret. It never holds the value. LastUsed is zero
// when the secret was never resolved.
type Info struct {
	Name     string    `json:"name"`
	Binding  Binding   `json:"binding"`
	Version  uint64    `json:"version"`
	SetAt    time.Time `json:"set_at"`
	LastUsed time.Time `json:"last_used,omitzero"`
	// Today is what runs with limits have used since midnight, UTC.
	Today Spend `json:"today,omitzero"`
}

// Health is what secretd says of itself.
type Health struct {
	Version int    `json:"version"`
	Build   string `json:"build"`
	Store   string `json:"store"`
	Agents  int    `json:"agents"`
	Grants  int    `json:"grants"`
}
