package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/superserve/superserve/proxy/egress"
	"github.com/superserve/superserve/proxy/quick"
	"github.com/superserve/superserve/secretd/api"
)

// Reasons of a refusal by the first bytes, beside those of package egress.
const (
	// ReasonHello means that the TLS hello is malformed or too long.
	ReasonHello = "bad_tls_hello"
	// ReasonPlaintext means that the name is intercepted and no TLS was spoken.
	ReasonPlaintext = "plaintext"
	// ReasonCrowd means that as many connections are open as may be.
	ReasonCrowd = "too_many_connections"
	// ReasonQuiet means that a client that has to speak first did not.
	ReasonQuiet = "no_tls_hello"
	// ReasonECH means that an encrypted hello hides the name of an intercepted one.
	ReasonECH = "encrypted_client_hello"
)

// timing is how long first bytes are waited for.
type timing struct {
	// first is for the first byte where the client speaks first for sure.
	first time.Duration
	// refused is for a refused connection to any other port, where only a readable
	// answer is at stake: other protocols shall get their RST soon.
	refused time.Duration
	// quiet is for ports of which nothing is known: the client may be waiting for
	// the server's greeting, so the wait is paid in latency.
	quiet time.Duration
	// whole is for the rest of the hello.
	whole time.Duration
	// crowd is for room where as many connections are open as may be.
	crowd time.Duration
}

var defaultTiming = timing{
	first: 10 * time.Second, refused: time.Second, quiet: 100 * time.Millisecond, whole: 10 * time.Second,
	crowd: crowdWait,
}

// tlsPorts are the ports where TLS begins with the connection. The second row is
// what the large CDNs serve besides 443.
var tlsPorts = map[uint16]bool{
	443: true, 465: true, 563: true, 636: true, 853: true, 989: true, 990: true, 992: true, 993: true, 995: true, 5061: true, 6443: true,
	2053: true, 2083: true, 2087: true, 2096: true, 8443: true, 9443: true,
}

// serverFirst are the ports where the server speaks first: SSH (its client does
// not wait, but TLS is not spoken), FTP, SMTP, POP3, IMAP, NNTP, rsync, MySQL, VNC.
var serverFirst = map[uint16]bool{
	21: true, 22: true, 25: true, 110: true, 119: true, 143: true, 587: true, 873: true, 2525: true, 3306: true, 5900: true,
}

var errQuiet = errors.New("the client said nothing")

// choose looks at the first bytes where it must and returns the protocol that
// serves c; nil means a RST.
func (s *Server) choose(c *Conn) Protocol {
	intercepted := c.Verdict.Allow && s.intercepts(c)
	wire := s.wire(c, intercepted)
	if wire != nil && wire.ServerFirst() {
		return wire
	}
	err := s.peek(c, intercepted)
	quiet := errors.Is(err, errQuiet)
	switch {
	case !c.Verdict.Allow:
		return s.refuse(c, c.Verdict)
	case errors.Is(err, errHello), errors.Is(err, errHelloSize):
		return s.refuse(c, egress.Decision{Rule: "hello", Reason: ReasonHello})
	case errors.Is(err, io.EOF) && !intercepted && !tlsPorts[c.Port]:
		return s.cfg.Passthrough // a client that only listens
	case err != nil && !errors.Is(err, errNotTLS) && !quiet:
		return nil // the client is gone
	case wire != nil && !quiet:
		return wire
	case intercepted:
		return s.intercept(c)
	case quiet && tlsPorts[c.Port]:
		return s.refuse(c, egress.Decision{Rule: "hello", Reason: ReasonQuiet})
	}
	if d := s.serverName(c); !d.Allow {
		return s.refuse(c, d)
	}
	return s.cfg.Passthrough
}

func (s *Server) intercepts(c *Conn) bool {
	if c.Host == "" {
		return s.cfg.InterceptAddr != nil && s.cfg.InterceptAddr(c.Dest.Addr(), c.Port)
	}
	return s.cfg.Intercept != nil && s.cfg.Intercept(c.Host, c.Port)
}

// wire returns the protocol of a database that c's destination is bound for; nil when
// there is none.
func (s *Server) wire(c *Conn, intercepted bool) Wire {
	if !intercepted {
		return nil
	}
	for _, w := range s.cfg.Wires {
		if w.Bound(c.Host, c.Dest.Addr(), c.Port) {
			return w
		}
	}
	return nil
}

// intercept serves a name that a secret is bound to. A hello whose outer name is
// another than the one connected to, with an encrypted hello inside, is the real
// thing and not a browser's decoy (RFC 9849 §6.2); the decoy beside the right name
// is harmless, because the TLS ends here.
func (s *Server) intercept(c *Conn) Protocol {
	if c.Hello == nil {
		if s.cfg.Plaintext != nil && c.Host != "" && s.cfg.Plaintext(c.Host, c.Port) {
			return s.cfg.Web
		}
		return s.refuse(c, egress.Decision{Rule: "tls", Reason: ReasonPlaintext})
	}
	if name, _ := api.ParseHost(c.Hello.ServerName); c.Hello.ECH && (name == "" || name != c.Host) {
		return s.refuse(c, egress.Decision{Rule: "tls", Reason: ReasonECH})
	}
	return s.cfg.Web
}

// serverName judges the TLS server name of a connection that is passed through: a
// CDN serves many names at one address, so the name that was connected to says
// little about the one that is asked for. A hello for an address that was
// connected to as such is held to the deny rules only, since a CIDR was allowed. A name
// that is looked into is reached by that name alone: its rules and its credentials
// would be passed by here.
func (s *Server) serverName(c *Conn) egress.Decision {
	if c.Hello == nil || c.Hello.ServerName == "" || isAddr(c.Hello.ServerName) {
		return c.Verdict
	}
	name, err := api.ParseHost(c.Hello.ServerName)
	if err != nil {
		return egress.Decision{Rule: "hello", Reason: ReasonHello}
	}
	if name == c.Host {
		return c.Verdict
	}
	if s.cfg.Intercept != nil && s.cfg.Intercept(name, c.Port) {
		return egress.Decision{Rule: "it is looked into, connect to that name", Reason: egress.ReasonServer}
	}
	d := s.cfg.Policy.Name(name, c.Port)
	if d.Allow || c.Host == "" && d.Reason != egress.ReasonDenied {
		return c.Verdict
	}
	return egress.Decision{Rule: d.Rule, Reason: egress.ReasonServer}
}

func isAddr(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// window returns how long the first byte of c is waited for; 0 means not at all.
func (s *Server) window(c *Conn, intercepted bool) time.Duration {
	switch {
	case intercepted:
		return s.timing.first
	case serverFirst[c.Port]:
		return 0
	case tlsPorts[c.Port]:
		// Also when it is refused: on a host that starves its agents a hello takes
		// longer than other protocols should wait for their RST.
		return s.timing.first
	case !c.Verdict.Allow:
		return s.timing.refused
	}
	return s.timing.quiet
}

// peek reads the TLS hello, if there is one, sets c.Hello and leaves c as if
// nothing had been read.
func (s *Server) peek(c *Conn, intercepted bool) error {
	window := s.window(c, intercepted)
	if window == 0 {
		return errQuiet
	}
	raw := c.Conn
	head, hello, err := readHead(raw, window, s.timing.whole)
	if len(head) > 0 {
		c.Conn = &replay{Conn: raw, quick: quick.New(raw), head: head}
	}
	c.Hello = hello
	if clear := raw.SetReadDeadline(time.Time{}); err == nil {
		err = clear
	}
	return err
}

// readHead reads until a hello is complete or is none, at most maxHelloBytes.
func readHead(conn net.Conn, first, whole time.Duration) (head []byte, hello *Hello, err error) {
	if err := conn.SetReadDeadline(time.Now().Add(first)); err != nil {
		return nil, nil, err
	}
	head = make([]byte, 0, 2048)
	for need := recordHeader; need > 0; {
		if len(head)+need > maxHelloBytes {
			return head, nil, errHelloSize
		}
		before := len(head)
		if head, err = readMore(conn, head, need); err != nil {
			return head, nil, err
		}
		if before == 0 {
			if err := conn.SetReadDeadline(time.Now().Add(whole)); err != nil {
				return head, nil, err
			}
		}
		if hello, need, err = parseHello(head); err != nil {
			return head, nil, err
		}
	}
	return head, hello, nil
}

// readMore reads once, with room for need bytes more.
func readMore(conn net.Conn, head []byte, need int) ([]byte, error) {
	if room := cap(head) - len(head); room < need {
		grown := make([]byte, len(head), min(max(2*cap(head), len(head)+need), maxHelloBytes))
		copy(grown, head)
		head = grown
	}
	n, err := conn.Read(head[len(head):cap(head)])
	head = head[:len(head)+n]
	switch {
	case n > 0:
		return head, nil // an error comes again
	case errors.Is(err, os.ErrDeadlineExceeded) && len(head) == 0:
		return head, errQuiet
	case errors.Is(err, os.ErrDeadlineExceeded):
		return head, errHello
	}
	return head, err
}
