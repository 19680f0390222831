// Package k8s is a part of package discover.
package k8s

type Provider struct{}
