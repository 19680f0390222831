// Package gcpckms takes the place of the one that unseals by a cloud's keys.
package gcpckms

import wrapping "github.com/hashicorp/go-kms-wrapping/v2"

func NewWrapper() wrapping.Wrapper { return nil }
