// Package sandbox runs one command in a gVisor sandbox whose only way out is a proxy that swaps placeholders for
// real keys. It is the public way to embed superserve: fill a Config, call Run or Start, read the Result.
//
// The package wires the mechanisms below it (bundle, runsc, netns, cgroup, bpf) in the order of docs/EGRESS.md and
// owns their lifetimes; it decides nothing about traffic. Every failure leaves the agent without a network or
// without a process, never with a network of the host.
package sandbox

// Network says what the agent may reach. The zero value is the public internet over TCP.
type Network struct {
	Mode         string   `json:"mode,omitempty"`          // "public" (also ""), "bound" (only hosts bound to secrets) or "none"
	Allow        []string `json:"allow"`                   // names, wildcards or CIDRs with an optional port; if not nil, even if empty, only these and bound hosts
	Deny         []string `json:"deny,omitempty"`          // the same forms; always wins
	AllowPrivate []string `json:"allow_private,omitempty"` // CIDRs of private space that rules may reach
}
