package web

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/dial"
	"github.com/superserve/superserve/proxy/egress"
)

// TestParks: a client that closes after its answer leaves the upstream
// connection to the next; a request that must not be repeated does not use it.
func TestParks(t *testing.T) {
	rig := newH1Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) })
	once := func(raw string) string {
		res, body, err := rig.exchange(raw)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("got %v %v", res, err)
		}
		<-rig.ended
		return body
	}
	first := once(get + host + auth + end)
	if second := once(bye); second != first || rig.dialer.count() != 1 {
		t.Errorf("the second client got another connection (%d dials)", rig.dialer.count())
	}
	third := once(post + host + "Content-Length: 0\r\n\r\n")
	if third == first || rig.dialer.count() != 2 {
		t.Errorf("a POST went out on a parked connection (%d dials)", rig.dialer.count())
	}
	rig.server.Cut("TEST_API_KEY")
	if fourth := once(bye); fourth != third {
		t.Error("the connection without the key was not the one that stayed")
	}
}

// TestParkedDies: a parked connection that dies as it is used costs a repeatable
// request nothing.
func TestParkedDies(t *testing.T) {
	rig := newH1Rig(t)
	var conns atomic.Int32
	rig.script(func(c net.Conn, r *bufio.Reader) {
		first := conns.Add(1) == 1
		for range 2 {
			if _, err := readHead(r); err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			if first {
				readHead(r)
				return
			}
		}
	})
	for range 2 {
		res, body, err := rig.exchange(bye)
		if err != nil || res.StatusCode != 200 || body != "ok" {
			t.Fatalf("got %v %q %v", res, body, err)
		}
		<-rig.ended
	}
	if rig.dialer.count() != 2 {
		t.Errorf("%d dials, want 2", rig.dialer.count())
	}
}

func TestDialFailures(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{&dial.Error{Op: dial.OpResolve, Err: errors.New("x")}, 502},
		{&dial.Error{Op: dial.OpConnect, Timeout: true, Err: errors.New("x")}, 504},
		{&dial.Error{Op: dial.OpTLS, Err: errors.New("x")}, 502},
		{&dial.Error{Op: dial.OpRefuse, Err: &dial.Refused{Decision: egress.Decision{Reason: "private"}}}, 403},
	} {
		rig := newH1Rig(t)
		rig.dialer.fail(c.err)
		res, body, err := rig.exchange(get + host + auth + end)
		if err != nil || res.StatusCode != c.status || res.Header.Get("X-Superserve-Error") == "" {
			t.Errorf("%v: got %v %q %v", c.err, res, body, err)
		}
	}
}

func TestNamesOfHandshake(t *testing.T) {
	for sni, want := range map[string]int{"evil.example.net": 421, "API.EXAMPLE.COM": 200, "": 200} {
		t.Run("SNI "+sni, func(t *testing.T) {
			rig := newH1Rig(t)
			rig.handle(func(w http.ResponseWriter, r *http.Request) {})
			rig.onConn(func(c *proxy.Conn) { c.Hello.ServerName = sni })
			c, err := net.Dial("tcp", rig.front.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			res, err := rig.ask(c, sni)
			if err != nil || res.StatusCode != want {
				t.Errorf("got %v %v, want %d", res, err, want)
			}
			if want == 421 && rig.dialer.count() != 0 {
				t.Error("the upstream was dialled")
			}
		})
	}
}

func TestRefuse(t *testing.T) {
	rig := newH1Rig(t)
	rig.onConn(func(c *proxy.Conn) {
		c.Verdict = egress.Decision{Rule: "deny: " + testHost, Reason: egress.ReasonDenied}
	})
	res, body, err := rig.exchange(get + host + auth + end)
	if err != nil || res.StatusCode != 403 || !strings.Contains(body, "deny: "+testHost) {
		t.Errorf("got %v %q %v", res, body, err)
	}
	if rig.dialer.count() != 0 {
		t.Error("the upstream was dialled")
	}
	<-rig.ended
	if events := rig.records.all(); len(events) != 0 {
		t.Errorf("recorded a second time: %+v", events)
	}
}

// TestRefuseUnreachable: an upstream that passthrough could not reach is a fault, not policy.
func TestRefuseUnreachable(t *testing.T) {
	for reason, status := range map[string]int{
		dial.ReasonDNS: 502, dial.ReasonTimeout: 504, dial.ReasonTLSName: 502, egress.ReasonDenied: 403,
	} {
		t.Run("it answers "+reason, func(t *testing.T) {
			rig := newH1Rig(t)
			rig.onConn(func(c *proxy.Conn) { c.Verdict = egress.Decision{Reason: reason} })
			res, _, err := rig.exchange(get + host + end)
			if err != nil || res.StatusCode != status {
				t.Fatalf("got %v %v, want %d", res, err, status)
			}
			if got := res.Header.Get("X-Superserve-Error"); status != 403 && got != reason {
				t.Errorf("X-Superserve-Error: got %q, want %q", got, reason)
			}
		})
	}
}
