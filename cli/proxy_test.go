package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/dns"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/api"
)

// kept is a Recorder in memory for one goroutine.
type kept struct {
	events []audit.Event
	err    error
}

func (k *kept) Record(e audit.Event) error {
	k.events = append(k.events, e)
	return k.err
}

func TestNotices(t *testing.T) {
	log := &kept{}
	n := newNotices(log)
	ours, theirs := net.Pipe()
	defer theirs.Close()
	done := make(chan error, 1)
	go func() { done <- n.run(t.Context(), ours) }()
	refused := audit.Event{Kind: audit.Connection, Verdict: audit.Refused, Name: "evil.com", Port: 443, Rule: "deny evil.com", Reason: egress.ReasonDenied}
	literal := audit.Event{Kind: audit.Connection, Verdict: audit.Refused, Addr: "10.0.0.1", Port: 80, Rule: egress.Private, Reason: egress.ReasonAddress}
	secret := audit.Event{Kind: audit.Credential, Verdict: audit.Refused, Name: "evil.com", Port: 443, Secret: "KEY", Reason: "host"}
	for _, e := range []audit.Event{refused, refused, {Verdict: audit.Allowed, Name: "a.com"}, literal, secret} {
		if err := n.Record(e); err != nil {
			t.Fatal(err)
		}
	}
	if len(log.events) != 5 {
		t.Errorf("%d events reached the log, want 5", len(log.events))
	}
	lines := bufio.NewScanner(theirs)
	for _, want := range []sandbox.Notice{
		{Kind: "refused", Host: "evil.com", Port: 443, Text: "evil.com:443 was refused: refused by the rule: deny evil.com"},
		{Kind: "refused", Host: "10.0.0.1", Port: 80, Text: "10.0.0.1:80 was refused: the address is not on the public internet (private); `network: allow_private:` can name it"},
		{Kind: "secret", Host: "evil.com", Port: 443, Secret: "KEY", Text: "KEY was not sent to evil.com:443: host"},
	} {
		var got sandbox.Notice
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &got) != nil || got != want {
			t.Errorf("notice = %+v, want %+v", got, want)
		}
	}
	theirs.Close()
	n.tell(sandbox.Notice{Kind: "last"})
	if err := <-done; !errors.Is(err, errSupervisorGone) {
		t.Errorf("run: %v, want the supervisor to be gone", err)
	}
	log.err = errors.New("disk full")
	if err := n.Record(refused); !errors.Is(err, log.err) {
		t.Errorf("Record: %v", err)
	}
}

func TestNoticesAreBounded(t *testing.T) {
	n := newNotices(&kept{})
	for i := range 10 * noticeKinds {
		n.tell(sandbox.Notice{Port: uint16(i)})
	}
	if len(n.seen) > noticeKinds || len(n.queue) > noticeQueue {
		t.Errorf("%d kinds, %d queued", len(n.seen), len(n.queue))
	}
}

func TestOwnAddrs(t *testing.T) {
	calls := 0
	own := &ownAddrs{list: func() ([]net.Addr, error) {
		calls++
		return []net.Addr{&net.IPNet{IP: net.ParseIP("93.184.216.34"), Mask: net.CIDRMask(24, 32)}, &net.IPNet{IP: net.ParseIP("2606::1"), Mask: net.CIDRMask(64, 128)}}, nil
	}}
	for text, want := range map[string]bool{"93.184.216.34": true, "93.184.216.35": false, "2606::1": true, "2606::2": false} {
		if got := own.has(netip.MustParseAddr(text)); got != want {
			t.Errorf("has(%s) = %v, want %v", text, got, want)
		}
	}
	if calls != 1 {
		t.Errorf("%d lists were made, want 1", calls)
	}
	own.until = time.Time{}
	own.list = func() ([]net.Addr, error) { return nil, errors.New("no netlink") }
	if !own.has(netip.MustParseAddr("1.1.1.1")) {
		t.Error("without a list an address counts as foreign")
	}
}

func TestNewPolicy(t *testing.T) {
	bound := []api.Pattern{{Host: "api.x.com"}}
	for _, c := range []struct {
		name    string
		network sandbox.Network
		free    bool // any name
		bound   bool
	}{
		{"opens the public internet by default", sandbox.Network{}, true, true},
		{"closes it for a list", sandbox.Network{Allow: []string{"pypi.org"}}, false, true},
		{"closes it for an empty list", sandbox.Network{Mode: "public", Allow: []string{}}, false, true},
		{"knows bound", sandbox.Network{Mode: "bound"}, false, true},
		{"knows none", sandbox.Network{Mode: "none"}, false, false},
		{"keeps none beside a list", sandbox.Network{Mode: "none", Allow: []string{"free.org"}}, false, false},
	} {
		t.Run("it "+c.name, func(t *testing.T) {
			p := &proxyRun{handoff: &sandbox.Handoff{Network: c.network}}
			policy, err := p.newPolicy(bound)
			if err != nil {
				t.Fatal(err)
			}
			if got := policy.Name("free.org", 443); got.Allow != c.free {
				t.Errorf("free.org: %+v", got)
			}
			if got := policy.Name("api.x.com", 443); got.Allow != c.bound {
				t.Errorf("api.x.com: %+v", got)
			}
		})
	}
}

func TestTrim(t *testing.T) {
	pages, err := constants()
	if static := len(pages) > 0; !static && os.Getenv("CI") != "true" {
		t.Skip("a static binary is missing: set CGO_ENABLED=0")
	}
	if err != nil || len(pages) < 2 {
		t.Fatalf("constants: %v, %v", pages, err)
	}
	if err := trim(pages); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains([]string{"it still runs"}, "it still runs") {
		t.Error("constants are gone")
	}
}

// TestSyntheticAddressesAreRefusedAsSuch keeps two packages that do not import each other in step: an address
// that the resolver never gave out must not be dialled.
func TestSyntheticAddressesAreRefusedAsSuch(t *testing.T) {
	for prefix, want := range map[netip.Prefix]string{dns.Prefix4: egress.Synthetic, dns.Prefix6: egress.Private} {
		if got := egress.Class(prefix.Addr().Next()); got != want {
			t.Errorf("the class of %s is %q, want %q", prefix, got, want)
		}
	}
}
