// Package discover takes the place of the one that finds members of a cluster through the APIs
// of two dozen clouds, which is half of what the server is built from.
package discover

import (
	"errors"
	"log"
)

type Provider any

var Providers map[string]Provider

type Discover struct{}

type Option func()

func New(...Option) (*Discover, error) { return nil, errors.New("left out of this build") }

func WithProviders(map[string]Provider) Option { return nil }

func (*Discover) Addrs(string, *log.Logger) ([]string, error) {
	return nil, errors.New("left out of this build")
}
