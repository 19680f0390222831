package bpf

import (
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEndpoint(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:443": "192.0.2.1:443", "[2001:db8::1]:53": "[2001:db8::1]:53", "[::ffff:192.0.2.1]:80": "192.0.2.1:80", "[::1]:65535": "[::1]:65535",
	} {
		if got := addrPort(endpoint(netip.MustParseAddrPort(in))); got.String() != want {
			t.Errorf("endpoint of %s: got back %v, want %s", in, got, want)
		}
	}
	if got := endpoint(netip.AddrPort{}); got != (egressEndpoint{}) {
		t.Errorf("endpoint of nothing: got %+v", got)
	}
}

func TestOpenDestinationsRefusesOtherFiles(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"/dev/null", w.Cgroup.Name()} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if d, err := OpenDestinations(f); err == nil {
			d.Close()
			t.Errorf("OpenDestinations(%s): got no error", name)
		}
	}
	fd, err := unix.Dup(w.redirect.objects.Counters.FD())
	if err != nil {
		t.Fatal(err)
	}
	info := os.NewFile(uintptr(fd), "counters")
	defer info.Close()
	before := descriptors(t)
	if d, err := OpenDestinations(info); err == nil {
		d.Close()
		t.Error("OpenDestinations of another map: got no error")
	}
	noMoreThan(t, before)
}
