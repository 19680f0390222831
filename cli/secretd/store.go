package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/superserve/superserve/secretd/bao"
	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/private"
	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/etcd"
	kv "github.com/superserve/superserve/secretd/store/vault"
)

const storeUsage = `STORE is where hosts share their secrets; without it they are in a file of this host:
  etcd://HOST:PORT,HOST:PORT/PREFIX?cert=FILE&key=FILE[&ca=FILE][&user=NAME&password=FILE]
  etcd+http://HOST:PORT/PREFIX        without TLS
  vault://HOST:PORT/MOUNT/PATH?token=FILE[&ca=FILE][&namespace=NS]
                           the key-value engine, version 2, of an OpenBao or Vault server`

// opener opens a shared store, or at a path below it another one.
type opener func(ctx context.Context, below string) (store.Watcher, error)

// partsBelow is where the files of agents are, beside the secrets: those are summed up and looked through when a
// daemon starts.
const partsBelow = "/parts"

// records opens the secrets.
func (o opener) records(ctx context.Context) (store.Watcher, error) { return o(ctx, "") }

// parts opens the files of agents.
func (o opener) parts(ctx context.Context) (store.Store, error) { return o(ctx, partsBelow) }

// stores is the table of what --store may begin with.
var stores = map[string]func(*url.URL) (opener, error){
	"etcd":      etcdStore,
	"etcd+http": etcdStore,
	"vault":     vaultStore,
}

// sharedStore parses a STORE; nil for none.
func sharedStore(spec string) (opener, error) {
	if spec == "" {
		return nil, nil
	}
	scheme, rest, ok := strings.Cut(spec, "://")
	parse := stores[scheme]
	if !ok || parse == nil {
		return nil, fmt.Errorf("unknown store %q: give etcd://…, etcd+http://… or vault://…", scheme)
	}
	// net/url knows no list of hosts: the scheme's own form is parsed with the first comma's rest aside.
	hosts, path, _ := strings.Cut(rest, "/")
	u, err := url.Parse(scheme + "://host/" + path)
	if err != nil || hosts == "" || strings.Trim(u.Path, "/") == "" || strings.Contains(hosts, "@") {
		return nil, fmt.Errorf("store %s: give %s://HOST:PORT/PATH", scheme, scheme)
	}
	u.Host = hosts
	return parse(u)
}

func etcdStore(u *url.URL) (opener, error) {
	q := u.Query()
	c := etcd.Config{Prefix: "/" + strings.Trim(u.Path, "/"), Username: q.Get("user")}
	scheme := "http://"
	if u.Scheme == "etcd" {
		scheme = "https://"
	}
	for host := range strings.SplitSeq(u.Host, ",") {
		c.Endpoints = append(c.Endpoints, scheme+host)
	}
	return func(ctx context.Context, below string) (store.Watcher, error) {
		c := c
		c.Prefix += below
		var err error
		if scheme == "https://" {
			if c.TLS, err = clientTLS(q.Get("ca"), q.Get("cert"), q.Get("key")); err != nil {
				return nil, fmt.Errorf("store etcd: %w", err)
			}
		}
		if path := q.Get("password"); path != "" {
			if c.Password, err = readPassword(path); err != nil {
				return nil, fmt.Errorf("store etcd: %w", err)
			}
		}
		s, err := etcd.Open(ctx, c)
		if err != nil {
			return nil, err
		}
		return s, nil
	}, nil
}

// readPassword reads a file of mode 0600. It is the one of etcd's user, who gets what is
// sealed, and its client wants it as a string.
func readPassword(path string) (string, error) {
	f, err := private.Open(path, os.O_RDONLY)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, maxPhrase))
	defer locked.Wipe(p)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	return strings.TrimSpace(string(p)), nil
}

// clientTLS reads the authorities, "" for the system's, and the certificate of this host,
// "" for none.
func clientTLS(ca, cert, key string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		text, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%q has no certificate", ca)
		}
	}
	if (cert == "") != (key == "") {
		return nil, errors.New("give cert= and key=, or neither")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func vaultStore(u *url.URL) (opener, error) {
	mount, prefix, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	q := u.Query()
	c := kv.Config{
		Server: bao.Server{Address: "https://" + u.Host, Namespace: q.Get("namespace"), TokenFile: q.Get("token"), CAFile: q.Get("ca")},
		Mount:  mount, Prefix: prefix,
	}
	return func(ctx context.Context, below string) (store.Watcher, error) {
		c := c
		c.Prefix += below
		s, err := kv.Open(ctx, c)
		if err != nil {
			return nil, err
		}
		return s, nil
	}, nil
}
