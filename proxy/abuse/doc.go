// Package abuse has no code but tests: a proxy, wired as in a run and in a process of its own, is attacked by what an
// agent or an upstream can send, and what it costs is measured from outside: the peak of resident memory, processor
// time, and the time until the attacker is refused. Each attack has a bound that fails the test, and prints a line
// "LIMIT"; docs/LIMITS.md has them as they were measured.
//
// Build tags and root are not needed. `make limits` runs everything, with slowhttptest and the attacks that take
// long; go test runs what takes a second or two each.
package abuse
