package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"

	"github.com/superserve/superserve/secretd/api"
)

// defaultPort is that of HTTPS.
const defaultPort = "443"

// NewRemote returns a client of the secretd of another host, at https://HOST[:PORT], for
// the admin verbs; grants stay on their host. config holds the certificate of this side and
// the authorities of the other, nil for the system's. TLS is 1.3, and the name is always
// verified. The error wraps api.ErrInvalid.
func NewRemote(server string, config *tls.Config) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("server: %w: give https://HOST[:PORT]", api.ErrInvalid)
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	c := config.Clone()
	c.MinVersion, c.ServerName, c.InsecureSkipVerify = tls.VersionTLS13, u.Hostname(), false
	d := &tls.Dialer{Config: c}
	return &Client{dial: func(ctx context.Context) (net.Conn, error) {
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
		if err != nil {
			return nil, fmt.Errorf("connect to %s: %w: %w", u.Host, api.ErrUnavailable, err)
		}
		return conn, nil
	}}, nil
}

// refusedCertificate reports whether err is an alert of the other side: in TLS 1.3 its
// answer to a certificate that it does not take comes with the first read.
func refusedCertificate(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
