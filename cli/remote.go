package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/secretd/client"
)

// errServerOfOthers means that a command was sent to another host that can only do its work on this one.
var errServerOfOthers = errors.New("--server is for `superserve secrets`, `deploy` and `agents`: agents run on this host, with this host's secretd")

// remote is where secretd is on another host, and by which certificates the two know each other.
type remote struct{ server, ca, cert, key string }

func (r *remote) register(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&r.server, "server", "", "secrets, deploy, agents: use the secretd at https://`HOST[:PORT]` (env SUPERSERVE_SERVER)")
	flags.StringVar(&r.ca, "server-ca", "", "PEM `FILE` of the authorities of --server, else the system's (env SUPERSERVE_SERVER_CA)")
	flags.StringVar(&r.cert, "cert", "", "PEM `FILE` of your certificate for --server (env SUPERSERVE_CERT)")
	flags.StringVar(&r.key, "cert-key", "", "PEM `FILE` of its key (env SUPERSERVE_CERT_KEY)")
	for _, name := range []string{"server", "server-ca", "cert", "cert-key"} {
		cmd.PersistentFlags().Lookup(name).Hidden = true // of every command's help but that of secrets
	}
}

// settle takes what the flags leave open from the environment, for the commands that may go elsewhere; any other takes
// no --server.
func (r *remote) settle(cmd *cobra.Command) error {
	if !goesElsewhere(cmd) {
		if r.server != "" {
			return errServerOfOthers
		}
		return nil
	}
	for name, at := range map[string]*string{
		"SUPERSERVE_SERVER": &r.server, "SUPERSERVE_SERVER_CA": &r.ca, "SUPERSERVE_CERT": &r.cert, "SUPERSERVE_CERT_KEY": &r.key,
	} {
		if *at == "" {
			*at = os.Getenv(name)
		}
	}
	return nil
}

// goesElsewhere reports whether a command can do its work with another host's secretd.
func goesElsewhere(cmd *cobra.Command) bool {
	for ; cmd != nil; cmd = cmd.Parent() {
		if slices.Contains([]string{"secrets", "deploy", "agents"}, cmd.Name()) {
			return true
		}
	}
	return false
}

// client returns a client of the other host's secretd.
func (r *remote) client() (*client.Client, error) {
	if r.cert == "" || r.key == "" {
		return nil, errors.New("--server needs --cert and --cert-key: the certificate by which it knows you")
	}
	pair, err := tls.LoadX509KeyPair(r.cert, r.key)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	if r.ca != "" {
		text, err := os.ReadFile(r.ca)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%q has no certificate", r.ca)
		}
	}
	return client.NewRemote(r.server, config)
}
