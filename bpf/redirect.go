// Package bpf sends the outgoing connections of one sandbox to its proxy. It holds the eBPF programs of
// egress.bpf.c, compiled and embedded, and attaches them to the sandbox's cgroup.
//
// The programs are the redirect, not the wall: they belong in a network namespace that has only lo
// (runtime/netns), where the failure of any of them means no network, never the direct network.
package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Config says where one sandbox's connections go.
type Config struct {
	// Cgroup is a directory descriptor of the sandbox's cgroup2 leaf. The caller keeps it.
	Cgroup *os.File

	// Proxy4 and Proxy6 are the listeners of the proxy, DNS4 and DNS6 those of its resolver (the same
	// address and port for UDP and TCP), all on loopback inside the sandbox's network namespace. Zero
	// Proxy6 and DNS6 mean that IPv6 is off: only IPv6 loopback stays allowed.
	Proxy4, Proxy6, DNS4, DNS6 netip.AddrPort

	// Own4 and Own6 are further addresses of the namespace's lo. They stay the sandbox's own, as 127/8
	// and ::1 do. May be zero.
	Own4, Own6 netip.Addr
}

// Redirect is the set of attached programs of one sandbox. It is safe for concurrent use.
type Redirect struct {
	objects      egressObjects
	destinations *os.File
	links        []*link.RawLink

	closed sync.Once
	err    error
}

// Attach loads the programs and attaches them to cfg.Cgroup, all of them or none. It uses bpf_link only,
// never the older attachment that outlives its process. The process needs CAP_BPF and CAP_NET_ADMIN in
// the initial user namespace. The error wraps ErrNotSupported where the kernel is too old or lacks a
// program type, and carries the verifier's text where that refused.
func Attach(cfg Config) (*Redirect, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("attach egress programs: %w", err)
	}
	r := &Redirect{}
	if err := r.load(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("load egress programs: %w", explain(err)), r.Close())
	}
	for _, h := range r.hooks() {
		l, err := attach(cfg.Cgroup, h)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attach %s: %w", h.name, explain(err)), r.Close())
		}
		r.links = append(r.links, l)
	}
	return r, nil
}

// Destinations is a read-only descriptor of the map that OpenDestinations understands, to be handed to
// the proxy. It belongs to r and is valid until Close; what the proxy inherited stays valid after.
func (r *Redirect) Destinations() *os.File { return r.destinations }

// Close detaches the programs and frees them and their maps. Sockets that the sandbox still has keep
// their connections and can make no new ones, as the namespace has no route out. It may be called again.
func (r *Redirect) Close() error {
	r.closed.Do(func() {
		var errs []error
		for _, l := range r.links {
			errs = append(errs, l.Close())
		}
		if r.destinations != nil {
			errs = append(errs, r.destinations.Close())
		}
		r.err = errors.Join(append(errs, r.objects.Close())...)
	})
	return r.err
}

func (r *Redirect) load(cfg Config) error {
	if err := Supported(); err != nil {
		return err
	}
	spec, err := configured(cfg)
	if err != nil {
		return err
	}
	if err := spec.LoadAndAssign(&r.objects, nil); err != nil {
		return err
	}
	r.destinations, err = readOnly(r.objects.Destinations)
	return err
}

// configured is the embedded object with cfg written into its constants.
func configured(cfg Config) (*ebpf.CollectionSpec, error) {
	spec, err := loadEgress()
	if err != nil {
		return nil, err
	}
	constants := map[string]egressEndpoint{
		egressVarProxy4: endpoint(cfg.Proxy4), egressVarProxy6: endpoint(cfg.Proxy6),
		egressVarDns4: endpoint(cfg.DNS4), egressVarDns6: endpoint(cfg.DNS6),
		egressVarOwn4: endpoint(netip.AddrPortFrom(cfg.Own4, 0)), egressVarOwn6: endpoint(netip.AddrPortFrom(cfg.Own6, 0)),
	}
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	return spec, nil
}

// hook is one program and the place it is attached to.
type hook struct {
	name    string
	program *ebpf.Program
	at      ebpf.AttachType
}

// hooks lists every program in the order of attachment: first what stops packets, last what redirects, so
// that there is no moment at which a connection is redirected and its packets are not judged.
func (r *Redirect) hooks() []hook {
	o := &r.objects
	return []hook{
		{"cgroup_skb/egress", o.Egress, ebpf.AttachCGroupInetEgress},
		{"cgroup/sock_create", o.SockCreate, ebpf.AttachCGroupInetSockCreate},
		{"sockops", o.Record, ebpf.AttachCGroupSockOps},
		{"cgroup/recvmsg4", o.Recvmsg4, ebpf.AttachCGroupUDP4Recvmsg},
		{"cgroup/recvmsg6", o.Recvmsg6, ebpf.AttachCGroupUDP6Recvmsg},
		{"cgroup/getpeername4", o.Getpeername4, ebpf.AttachCgroupInet4GetPeername},
		{"cgroup/getpeername6", o.Getpeername6, ebpf.AttachCgroupInet6GetPeername},
		{"cgroup/sendmsg4", o.Sendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
		{"cgroup/sendmsg6", o.Sendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
		{"cgroup/connect4", o.Connect4, ebpf.AttachCGroupInet4Connect},
		{"cgroup/connect6", o.Connect6, ebpf.AttachCGroupInet6Connect},
	}
}

// attach makes a bpf_link. link.AttachCgroup is not used: it falls back, silently, to an attachment that
// no descriptor holds and that survives a crash.
func attach(cgroup *os.File, h hook) (*link.RawLink, error) {
	return link.AttachRawLink(link.RawLinkOptions{Target: int(cgroup.Fd()), Program: h.program, Attach: h.at})
}

func (c Config) check() error {
	switch {
	case c.Cgroup == nil:
		return errors.New("no cgroup")
	case !loopback4(c.Proxy4) || !loopback4(c.DNS4):
		return fmt.Errorf("proxy %v and resolver %v must be IPv4 loopback addresses", c.Proxy4, c.DNS4)
	case c.Proxy6 == netip.AddrPort{} && c.DNS6 == netip.AddrPort{}:
		return nil
	case !loopback6(c.Proxy6) || !loopback6(c.DNS6):
		return fmt.Errorf("proxy %v and resolver %v must be IPv6 loopback addresses", c.Proxy6, c.DNS6)
	}
	return nil
}

func loopback4(a netip.AddrPort) bool {
	return a.Addr().Is4() && a.Addr().IsLoopback() && a.Port() != 0
}

func loopback6(a netip.AddrPort) bool {
	return a.Addr().Is6() && !a.Addr().Is4In6() && a.Addr().IsLoopback() && a.Port() != 0
}
