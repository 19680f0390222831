// Package e2e runs the built superserve and secretd as a person would: real clients inside real
// sandboxes, against TLS servers on this machine that play the vendors. Its tests have the build tag e2e
// and need root.
package e2e
