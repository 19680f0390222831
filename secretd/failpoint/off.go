//go:build !failpoint

// Package failpoint names the moments of a change at which tests kill secretd. In an
// ordinary build it is nothing; with the build tag "failpoint" the process ends itself
// by SIGKILL at the moment that SECRETD_FAILPOINT names.
package failpoint

// Hit marks a moment. It does nothing in this build.
func Hit(string) {}
