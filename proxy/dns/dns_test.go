package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/superserve/superserve/secretd/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func query(t testing.TB, name string, kind dnsmessage.Type, edns bool) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 77, RecursionDesired: true})
	n, err := dnsmessage.NewName(name)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(b.StartQuestions(), b.Question(dnsmessage.Question{Name: n, Type: kind, Class: dnsmessage.ClassINET}))
	if edns {
		var h dnsmessage.ResourceHeader
		err = errors.Join(err, b.StartAdditionals(), h.SetEDNS0(4096, 0, true), b.OPTResource(h, dnsmessage.OPTResource{}))
	}
	out, finish := b.Finish()
	if err := errors.Join(err, finish); err != nil {
		t.Fatal(err)
	}
	return out
}

func ask(t testing.TB, r *resolver, q []byte) dnsmessage.Message {
	t.Helper()
	out, err := r.answer(nil, q)
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(out); err != nil {
		t.Fatal(err)
	}
	if m.ID != 77 || !m.Response || !m.RecursionAvailable || !m.Authoritative {
		t.Errorf("header = %+v", m.Header)
	}
	return m
}

func TestAnswer(t *testing.T) {
	r := &resolver{table: newTable(2), ipv6: true}
	for _, c := range []struct {
		name, query string
		kind        dnsmessage.Type
		code        dnsmessage.RCode
		want        string
	}{
		{"gives a name an address", "Api.X.com.", dnsmessage.TypeA, 0, "198.18.0.1"},
		{"gives it the same one over IPv6", "api.x.com.", dnsmessage.TypeAAAA, 0, "fd73:7372:7665::1"},
		{"keeps it", "api.x.com.", dnsmessage.TypeA, 0, "198.18.0.1"},
		{"gives another name another", "b.com.", dnsmessage.TypeA, 0, "198.18.0.2"},
		{"fails on a name too many", "c.com.", dnsmessage.TypeA, dnsmessage.RCodeServerFailure, ""},
		{"still knows the others", "b.com.", dnsmessage.TypeA, 0, "198.18.0.2"},
		{"keeps localhost at home", "localhost.", dnsmessage.TypeA, 0, "127.0.0.1"},
		{"keeps what is below localhost at home", "x.localhost.", dnsmessage.TypeAAAA, 0, "::1"},
		{"has no other records", "api.x.com.", dnsmessage.TypeTXT, 0, ""},
		{"has no HTTPS records", "api.x.com.", dnsmessage.Type(65), 0, ""},
		{"has no SVCB records", "api.x.com.", dnsmessage.Type(64), 0, ""},
		{"does not answer ANY", "api.x.com.", dnsmessage.TypeALL, 0, ""},
		{"does not spend addresses on other types", "d.com.", dnsmessage.TypeMX, 0, ""},
		{"knows no name that is an address", "1.2.3.4.", dnsmessage.TypeA, dnsmessage.RCodeNameError, ""},
		{"knows no hexadecimal address", "0x7f000001.", dnsmessage.TypeA, dnsmessage.RCodeNameError, ""},
		{"knows no name with odd bytes", "a b.com.", dnsmessage.TypeA, dnsmessage.RCodeNameError, ""},
		{"knows no root", ".", dnsmessage.TypeA, dnsmessage.RCodeNameError, ""},
		{"finds the name of an address", "1.0.18.198.in-addr.arpa.", dnsmessage.TypePTR, 0, "api.x.com."},
		{"finds the name of an IPv6 address", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.6.6.7.2.7.3.7.3.7.d.f.ip6.arpa.", dnsmessage.TypePTR, 0, "api.x.com."},
		{"finds localhost", "1.0.0.127.in-addr.arpa.", dnsmessage.TypePTR, 0, "localhost."},
		{"knows no other address", "8.8.8.8.in-addr.arpa.", dnsmessage.TypePTR, dnsmessage.RCodeNameError, ""},
		{"knows no broken reverse name", "x.ip6.arpa.", dnsmessage.TypePTR, dnsmessage.RCodeNameError, ""},
	} {
		t.Run("it "+c.name, func(t *testing.T) {
			m := ask(t, r, query(t, c.query, c.kind, false))
			got := ""
			for _, a := range m.Answers {
				got += text(a.Body)
				if a.Header.TTL != ttl || a.Header.Name.String() != c.query {
					t.Errorf("header = %+v", a.Header)
				}
			}
			if m.RCode != c.code || got != c.want {
				t.Errorf("%s %s = %v %q, want %v %q", c.query, c.kind, m.RCode, got, c.code, c.want)
			}
			if len(m.Questions) != 1 || m.Questions[0].Name.String() != c.query {
				t.Errorf("questions = %v", m.Questions)
			}
		})
	}
}

func text(body dnsmessage.ResourceBody) string {
	switch b := body.(type) {
	case *dnsmessage.AResource:
		return netip.AddrFrom4(b.A).String()
	case *dnsmessage.AAAAResource:
		return netip.AddrFrom16(b.AAAA).String()
	case *dnsmessage.PTRResource:
		return b.PTR.String()
	}
	return fmt.Sprintf("%T", body)
}

func TestAnswerWithoutIPv6(t *testing.T) {
	r := &resolver{table: NewTable()}
	if m := ask(t, r, query(t, "a.com.", dnsmessage.TypeAAAA, false)); m.RCode != 0 || len(m.Answers) != 0 {
		t.Errorf("AAAA = %v %v, want NODATA", m.RCode, m.Answers)
	}
}

func TestAnswerEDNS(t *testing.T) {
	m := ask(t, &resolver{table: NewTable()}, query(t, "a.com.", dnsmessage.TypeA, true))
	if len(m.Answers) != 1 || len(m.Additionals) != 1 || m.Additionals[0].Header.Type != dnsmessage.TypeOPT {
		t.Errorf("message = %+v", m)
	}
}

func TestAnswerRefuses(t *testing.T) {
	r := &resolver{table: NewTable()}
	reply := query(t, "a.com.", dnsmessage.TypeA, false)
	reply[2] |= 0x80
	for name, q := range map[string][]byte{"a reply": reply, "nothing": nil, "half a header": reply[:7]} {
		if out, err := r.answer(nil, q); err == nil {
			t.Errorf("it answers %s: %x", name, out)
		}
	}
	good := query(t, "a.com.", dnsmessage.TypeA, false)
	update := bytes.Clone(good)
	update[2] |= 5 << 3
	two := bytes.Clone(good)
	two[5] = 2
	none := good[:12]
	none = append(bytes.Clone(none[:5]), append([]byte{0}, none[6:]...)...)
	for name, c := range map[string]struct {
		q    []byte
		want dnsmessage.RCode
	}{
		"an update": {update, dnsmessage.RCodeNotImplemented}, "two questions": {two, dnsmessage.RCodeFormatError},
		"no question": {none, dnsmessage.RCodeFormatError}, "a cut question": {good[:len(good)-2], dnsmessage.RCodeFormatError},
	} {
		out, err := r.answer(nil, c.q)
		var m dnsmessage.Message
		if err := errors.Join(err, m.Unpack(out)); err != nil || m.RCode != c.want {
			t.Errorf("%s: %v %v, want %v", name, m.RCode, err, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	table := NewTable()
	for i := range 1000 {
		h := api.Host(fmt.Sprintf("n%d.com", i))
		v4, v6, err := table.Addrs(h)
		if err != nil || !Prefix4.Contains(v4) || !Prefix6.Contains(v6) {
			t.Fatalf("%s: %s %s %v", h, v4, v6, err)
		}
		for _, a := range []netip.Addr{v4, v6, netip.AddrFrom16(v4.As16())} {
			if got, ok := table.Name(a); !ok || got != h {
				t.Fatalf("Name(%s) = %q, want %q", a, got, h)
			}
		}
	}
	for _, a := range []string{"198.18.0.0", "198.19.255.255", "8.8.8.8", "fd73:7372:7665::", "fd73:7372:7665:1::1", "::1"} {
		if got, ok := table.Name(netip.MustParseAddr(a)); ok {
			t.Errorf("Name(%s) = %q", a, got)
		}
	}
	if _, ok := table.Name(netip.Addr{}); ok {
		t.Error("no address has a name")
	}
	if maxNames >= 1<<17-1 {
		t.Error("more names than addresses")
	}
}

// serve starts a Server on all of UDP and TCP and returns Go's own resolver with
// it as its only server.
func serve(t *testing.T, listen string) (*Server, *Table, func(network string) *net.Resolver) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", listen)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	table := NewTable()
	s := NewServer(Config{Table: table, IPv6: true})
	done := make(chan error, 2)
	go func() { done <- s.ServeUDP(t.Context(), pc) }()
	go func() { done <- s.ServeTCP(t.Context(), l) }()
	t.Cleanup(func() {
		s.Close()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
	})
	_, port, _ := net.SplitHostPort(pc.LocalAddr().String())
	return s, table, func(network string) *net.Resolver {
		return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			if network == "tcp" {
				return d.DialContext(ctx, "tcp", l.Addr().String())
			}
			return d.DialContext(ctx, "udp", "127.0.0.3:"+port)
		}}
	}
}

func TestServer(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run("it answers a resolver over "+network, func(t *testing.T) {
			_, table, resolver := serve(t, "0.0.0.0:0")
			// A connected UDP socket takes replies from the address that it sent to
			// only, so this also shows that they leave from there.
			addrs, err := resolver(network).LookupNetIP(t.Context(), "ip4", "api.x.com.")
			if err != nil || len(addrs) != 1 {
				t.Fatalf("lookup: %v, %v", addrs, err)
			}
			if h, ok := table.Name(addrs[0]); !ok || h != "api.x.com" {
				t.Errorf("Name(%s) = %q", addrs[0], h)
			}
			if names, err := resolver(network).LookupAddr(t.Context(), "198.18.0.1"); err != nil || len(names) != 1 || names[0] != "api.x.com." {
				t.Errorf("reverse lookup: %v, %v", names, err)
			}
		})
	}
	t.Run("it closes a TCP client that stops", func(t *testing.T) {
		s, _, resolver := serve(t, "127.0.0.1:0")
		_ = s
		conn, err := resolver("tcp").Dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		conn.Write([]byte{0xff, 0xff}) // a length that is not taken
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("read: %v, want EOF", err)
		}
	})
	t.Run("it answers several queries on one TCP connection", func(t *testing.T) {
		_, _, resolver := serve(t, "127.0.0.1:0")
		conn, err := resolver("tcp").Dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		q := query(t, "a.com.", dnsmessage.TypeA, false)
		framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
		conn.Write(append(framed, framed...))
		for range 2 {
			head := make([]byte, 2)
			if _, err := io.ReadFull(conn, head); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint16(head))); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzAnswer holds every answer to be one: it parses, carries the query's ID and
// fits a datagram of 512 bytes when no EDNS was spoken.
func FuzzAnswer(f *testing.F) {
	f.Add(query(f, "a.com.", dnsmessage.TypeA, false))
	f.Add(query(f, strings.Repeat("a.", 100)+"com.", dnsmessage.TypeAAAA, true))
	f.Add(query(f, "1.0.18.198.in-addr.arpa.", dnsmessage.TypePTR, false))
	r := &resolver{table: newTable(1000), ipv6: true}
	f.Fuzz(func(t *testing.T, q []byte) {
		out, err := r.answer(nil, q)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil {
			t.Fatalf("answer does not parse: %v", err)
		}
		if !m.Response || m.ID != binary.BigEndian.Uint16(q) || len(out) > 600 {
			t.Errorf("answer of %d bytes: %+v", len(out), m.Header)
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	r := &resolver{table: NewTable()}
	q, out := query(b, "api.anthropic.com.", dnsmessage.TypeA, false), make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.answer(out, q); err != nil {
			b.Fatal(err)
		}
	}
}
