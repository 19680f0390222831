package web

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/secretd/api"
)

// inspecting allows GET below /v1 at the tests' host, and nothing of it else.
func inspecting(t *testing.T) *egress.Policy {
	t.Helper()
	p, err := egress.Parse(egress.Rules{Mode: egress.ModeBound, Requests: []egress.RequestRule{
		{Target: testHost, Methods: []string{"GET"}, Paths: []string{"/v1/**"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const inspectRule = "allow " + testHost + " GET /v1/**"

func TestInspectsRequests(t *testing.T) {
	rig := newH1Rig(t)
	rig.server.policy = inspecting(t)
	var arrived atomic.Int32
	rig.handle(func(w http.ResponseWriter, r *http.Request) { arrived.Add(1); fmt.Fprint(w, "ok") })
	for _, c := range []struct{ name, raw, reason string }{
		{"relays what is allowed", get + host + auth + end, ""},
		{"refuses a method", post + host + auth + "Content-Length: 2\r\n\r\n{}", egress.ReasonRequestUnlisted},
		{"refuses a path", "GET /v2/x HTTP/1.1\r\n" + host + auth + end, egress.ReasonRequestUnlisted},
		{"refuses a path that is two", "GET /v1/../v2 HTTP/1.1\r\n" + host + auth + end, egress.ReasonPath},
		{"refuses an absolute target of another path", "GET https://" + testHost + "/v2 HTTP/1.1\r\n" + host + auth + end, egress.ReasonRequestUnlisted},
		{"relays an absolute target of an allowed path", "GET https://" + testHost + "/v1/x HTTP/1.1\r\n" + host + auth + end, ""},
	} {
		t.Run("it "+c.name, func(t *testing.T) {
			before := arrived.Load()
			res, body, err := rig.exchange(c.raw)
			if err != nil {
				t.Fatal(err)
			}
			if c.reason == "" {
				if res.StatusCode != 200 || arrived.Load() != before+1 {
					t.Errorf("answer %d, %q", res.StatusCode, body)
				}
				return
			}
			if res.StatusCode != 403 || res.Header.Get("X-Superserve-Error") != c.reason || !strings.Contains(body, inspectRule) && c.reason != egress.ReasonPath {
				t.Errorf("answer %d, %v, %q; want %s", res.StatusCode, res.Header, body, c.reason)
			}
			if arrived.Load() != before {
				t.Error("it arrived upstream")
			}
		})
	}
	refused := 0
	for _, e := range rig.records.all() {
		if e.Verdict == audit.Refused {
			refused++
		}
		if e.Rule != inspectRule || e.Verdict == audit.Refused && e.Kind == audit.Credential {
			t.Errorf("event %+v", e)
		}
	}
	if refused != 4 {
		t.Errorf("%d refusals are recorded, want 4", refused)
	}
}

func TestHTTP2InspectsRequests(t *testing.T) {
	rig := newH2Rig(t)
	rig.server.policy = inspecting(t)
	var arrived atomic.Int32
	rig.handle(func(w http.ResponseWriter, r *http.Request) { arrived.Add(1); fmt.Fprint(w, "ok") })
	rig.serve(testHost)
	client := rig.client()
	for path, want := range map[string]int{"/v1/x?q": 200, "/v2": 403} {
		if res, body := rig.fetch(client, keyed(newRequest(t, "GET", path, nil))); res.StatusCode != want {
			t.Errorf("GET %s: %d, %s", path, res.StatusCode, body)
		}
	}
	if res, body := rig.fetch(client, keyed(newRequest(t, "DELETE", "/v1/x", nil))); res.StatusCode != 403 || !strings.Contains(string(body), inspectRule) {
		t.Errorf("DELETE: %d, %s", res.StatusCode, body)
	}
	if n := arrived.Load(); n != 1 {
		t.Errorf("%d requests arrived, want 1", n)
	}
}

// TestParkedIsJudgedAnew: the address of a parked connection is asked for again before
// another client gets it.
func TestParkedIsJudgedAnew(t *testing.T) {
	rig := newH1Rig(t)
	var denied atomic.Bool
	rig.server.recheck = func(h api.Host, port uint16, a netip.Addr) egress.Decision {
		if h != testHost || port != 443 || !a.IsLoopback() {
			t.Errorf("recheck of %s:%d at %s", h, port, a)
		}
		return egress.Decision{Allow: !denied.Load()}
	}
	rig.handle(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	for i, want := range []int{1, 1, 2} {
		denied.Store(i == 2)
		if res, _, err := rig.exchange(get + host + end); err != nil || res.StatusCode != 200 {
			t.Fatalf("got %v, %v", res, err)
		}
		<-rig.ended
		if rig.dialer.count() != want {
			t.Errorf("client %d: %d dials, want %d", i+1, rig.dialer.count(), want)
		}
	}
}
