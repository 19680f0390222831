package main

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/superserve/superserve/secretd/secretdtest"
	"github.com/superserve/superserve/secretd/store/etcd/etcdtest"
)

func TestStoreAddresses(t *testing.T) {
	for spec, want := range map[string]string{
		"":                                "",
		"file:///x":                       `unknown store "file"`,
		"etcd":                            `unknown store "etcd"`,
		"etcd://":                         "give etcd://HOST:PORT/PATH",
		"etcd://host:2379":                "give etcd://HOST:PORT/PATH",
		"etcd://user:secret@h:2379/x":     "give etcd://HOST:PORT/PATH",
		"etcd://a:1,b:2/superserve":       "",
		"etcd+http://a:1/superserve":      "",
		"vault://host:8200":               "give vault://HOST:PORT/PATH",
		"vault://host:8200/kv/superserve": "",
	} {
		_, err := sharedStore(spec)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret@")) {
			t.Errorf("%s: %v; want %q", spec, err, want)
		}
	}
}

// TestStoreByTLS opens an etcd that wants a certificate of its clients.
func TestStoreByTLS(t *testing.T) {
	a, dir := secretdtest.NewAuthority(t), t.TempDir()
	cert, key := a.Issue(dir, "localhost")
	address := etcdtest.Start(t, "--cert-file", cert, "--key-file", key, "--client-cert-auth", "--trusted-ca-file", a.File)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	spec := func(query string) error {
		open, err := sharedStore(fmt.Sprintf("etcd://localhost:%s/superserve?ca=%s%s", port, a.File, query))
		if err != nil {
			return err
		}
		s, err := open.records(t.Context())
		if err == nil {
			err = s.Close()
		}
		return err
	}
	if err := spec("&cert=" + cert + "&key=" + key); err != nil {
		t.Fatal(err)
	}
	other, otherKey := secretdtest.NewAuthority(t).Issue(dir, "other")
	for name, query := range map[string]string{"half a certificate": "&cert=" + cert, "a certificate of another authority": "&cert=" + other + "&key=" + otherKey} {
		if err := spec(query); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
