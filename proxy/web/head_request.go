package web

import (
	"bytes"
	"strconv"

	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

// Framing of a body.
const (
	bodyNone    = iota
	bodyLength  // Content-Length
	bodyChunked // Transfer-Encoding: chunked
	bodyClose   // a response that ends with its connection
)

// requestHead is a request's head, strictly parsed. Its slices alias the bytes
// it was parsed from. It is reused from request to request.
type requestHead struct {
	fieldLines
	method, target []byte
	authority      []byte // of an absolute-form target, else nil
	http10         bool

	body      int   // bodyNone, bodyLength or bodyChunked
	length    int64 // with bodyLength
	close     bool  // the client asked to close
	expect    bool  // Expect: 100-continue
	trailers  bool  // TE: trailers
	websocket bool
	encoding  bool // Accept-Encoding is there
	wsKey     []byte

	reframed  bool // the content goes out with a Content-Length of newLength
	newLength int
	uncoded   bool // and without its Content-Encoding
}

// reframe lets appendTo frame the content by its length alone.
func (h *requestHead) reframe(length int, uncoded bool) {
	h.reframed, h.newLength, h.uncoded = true, length, uncoded
}

// parse reads a whole head, as headEnd delimits it, and checks all that does
// not depend on the connection. secure says that the connection is TLS.
func (h *requestHead) parse(b []byte, secure bool) *swap.Refusal {
	fields := h.fieldLines
	*h = requestHead{fieldLines: fields}
	line, rest, ok := cutLine(b)
	if !ok {
		return refuseBareLF
	}
	if ref := h.parseLine(line, secure); ref != nil {
		return ref
	}
	if ref := h.fieldLines.parse(rest); ref != nil {
		return ref
	}
	return h.interpret(secure)
}

func (h *requestHead) parseLine(line []byte, secure bool) *swap.Refusal {
	i := bytes.IndexByte(line, ' ')
	j := bytes.LastIndexByte(line, ' ')
	if i <= 0 || i > maxMethodBytes || j <= i || !all(line[:i], classToken) {
		return refuseLine
	}
	h.method = line[:i]
	switch version := line[j+1:]; {
	case string(version) == "HTTP/1.1":
	case string(version) == "HTTP/1.0":
		h.http10 = true
	case bytes.HasPrefix(version, []byte("HTTP/")) && all(version, classTarget):
		return refuseVersion
	default:
		return refuseLine
	}
	switch string(h.method) {
	case "CONNECT", "TRACE", "TRACK":
		return refuseMethod
	}
	return h.parseTarget(line[i+1:j], secure)
}

// parseTarget takes origin-form, "*" of OPTIONS, and absolute-form, which is
// forwarded as origin-form (RFC 9112 §3.2).
func (h *requestHead) parseTarget(t []byte, secure bool) *swap.Refusal {
	switch {
	case len(t) > maxTargetBytes:
		return refuseTargetSize
	case len(t) == 0 || !all(t, classTarget):
		return refuseTarget
	case t[0] == '/':
		h.target = t
		return nil
	case string(t) == "*" && string(h.method) == "OPTIONS":
		h.target = t
		return nil
	}
	scheme := "http://"
	if secure {
		scheme = "https://"
	}
	if len(t) <= len(scheme) || !foldEqual(t[:len(scheme)], scheme) {
		return refuseTarget
	}
	return h.splitAbsolute(t[len(scheme):])
}

func (h *requestHead) splitAbsolute(t []byte) *swap.Refusal {
	end := bytes.IndexAny(t, "/?\\")
	if end < 0 {
		end = len(t)
	}
	h.authority, h.target = t[:end], t[end:]
	switch {
	case bytes.IndexByte(h.authority, '@') >= 0:
		return refuseUserinfo
	case len(h.authority) == 0:
		return refuseTarget
	case len(h.target) == 0:
		h.target = []byte("/")
	case h.target[0] != '/':
		return refuseTarget
	}
	return nil
}

// interpret reads the fields that frame and route.
func (h *requestHead) interpret(secure bool) *swap.Refusal {
	var upgrade, connUpgrade bool
	var settings bool
	lengths, codings := 0, 0
	for i, id := range h.ids {
		value := h.fields[i].Value
		switch id {
		case fieldOther, fieldCredential:
		case fieldContentLength:
			n, ok := parseDecimal(value)
			if !ok || lengths > 0 {
				return refuseLength
			}
			lengths++
			h.body, h.length = bodyLength, n
		case fieldTransferEncoding:
			if codings > 0 || h.http10 || !foldEqual(value, "chunked") {
				return refuseTransfer
			}
			codings++
		case fieldConnection:
			if ref := h.listed(value, &connUpgrade); ref != nil {
				return ref
			}
		case fieldExpect:
			if h.http10 || h.expect || !foldEqual(value, "100-continue") {
				return refuseExpect
			}
			h.expect = true
		case fieldTE:
			h.trailers = h.trailers || foldEqual(value, "trailers")
		case fieldUpgrade:
			if upgrade {
				return refuseUpgrade
			}
			upgrade = true
			h.websocket = foldEqual(value, "websocket")
			if !h.websocket && secure {
				return refuseUpgrade
			}
		case fieldHTTP2Setting:
			settings = true
		case fieldAcceptEncoding:
			h.encoding = true
		case fieldWSKey:
			h.wsKey = value
		}
	}
	if lengths > 0 && codings > 0 {
		return refuseBothFrames
	}
	if codings > 0 {
		h.body = bodyChunked
	}
	if settings && secure {
		return refuseUpgrade
	}
	h.websocket = h.websocket && connUpgrade
	return h.checkUse()
}

// checkUse refuses what parses but contradicts itself.
func (h *requestHead) checkUse() *swap.Refusal {
	if h.body == bodyLength && h.length == 0 || h.body == bodyNone {
		h.expect = false
	}
	if h.websocket && !h.validWebSocket() {
		return refuseWebSocket
	}
	return nil
}

// listed reads a Connection field. What it lists ends here; a field that frames,
// routes or authenticates may not be listed.
func (h *requestHead) listed(value []byte, upgrade *bool) *swap.Refusal {
	var ref *swap.Refusal
	eachToken(value, func(name []byte) bool {
		switch {
		case foldEqual(name, "close"):
			h.close = true
		case foldEqual(name, "upgrade"):
			*upgrade = true
		case foldEqual(name, "keep-alive"), foldEqual(name, "te"), foldEqual(name, "http2-settings"):
		case !all(name, classToken):
			ref = refuseConnection
		default:
			ref = h.strip(name)
		}
		return ref == nil
	})
	return ref
}

func (h *requestHead) strip(name []byte) *swap.Refusal {
	switch identify(name) {
	case fieldOther:
	case fieldHop, fieldTrailer:
		return nil // ends here anyway
	default:
		return refuseConnection
	}
	for i := range h.fields {
		if h.ids[i] == fieldOther && bytes.EqualFold(h.fields[i].Name, name) {
			h.ids[i] = fieldDropped
		}
	}
	return nil
}

// checkHost is R1 for a request: exactly one Host, and it names the host and
// port that were connected to, in one canonical form. An absolute-form target
// must say the same as Host.
func (h *requestHead) checkHost(t *swap.Target) *swap.Refusal {
	var host []byte
	n := 0
	for i, id := range h.ids {
		if id == fieldHost {
			host = h.fields[i].Value
			n++
		}
	}
	if n != 1 {
		return refuseHostCount
	}
	if t.Host == "" {
		return h.checkLiteral(host, t)
	}
	name, port, ok := splitAuthority(host, t)
	if !ok {
		return refuseHost
	}
	if h.authority != nil {
		aname, aport, ok := splitAuthority(h.authority, t)
		if !ok || aname != name || aport != port {
			return refuseAbsolute
		}
	}
	if name != t.Host || port != t.Port {
		return refuseMisdirect
	}
	return nil
}

// checkLiteral is R1 for a connection that was made to an IP literal: Host and an
// absolute-form target say exactly that.
func (h *requestHead) checkLiteral(host []byte, t *swap.Target) *swap.Refusal {
	want := string(appendAuthority(nil, t))
	if string(host) != want || h.authority != nil && string(h.authority) != want {
		return refuseMisdirect
	}
	return nil
}

// splitAuthority reads host[:port] and makes it canonical. The connected name
// itself, which is nearly all there is, costs one comparison.
func splitAuthority(b []byte, t *swap.Target) (api.Host, uint16, bool) {
	port := uint16(443)
	if !t.TLS {
		port = 80
	}
	if string(b) == string(t.Host) {
		return t.Host, port, t.Host != ""
	}
	if i := bytes.LastIndexByte(b, ':'); i >= 0 {
		n, err := strconv.ParseUint(string(b[i+1:]), 10, 16)
		if err != nil || n == 0 || b[i+1] == '0' || b[i+1] == '+' {
			return "", 0, false
		}
		port, b = uint16(n), b[:i]
	}
	name, err := api.ParseHost(string(b))
	return name, port, err == nil
}

// appendAuthority writes t's canonical Host value.
func appendAuthority(dst []byte, t *swap.Target) []byte {
	switch {
	case t.Host != "":
		dst = append(dst, t.Host...)
	case t.Addr.Is6():
		dst = append(t.Addr.AppendTo(append(dst, '[')), ']')
	default:
		dst = t.Addr.AppendTo(dst)
	}
	if t.TLS && t.Port == 443 || !t.TLS && t.Port == 80 {
		return dst
	}
	dst = append(dst, ':')
	return strconv.AppendUint(dst, uint64(t.Port), 10)
}

// repeatable reports whether the request may be sent twice: a safe method and
// nothing in its body (RFC 9110 §9.2.1).
func (h *requestHead) repeatable() bool {
	if h.body == bodyChunked || h.length > 0 || h.websocket {
		return false
	}
	switch string(h.method) {
	case "GET", "HEAD", "OPTIONS":
		return true
	}
	return false
}

// checkEdits refuses a credential in a field that would not be forwarded: what
// Connection lists, and Proxy-Authorization.
func (h *requestHead) checkEdits(plan *swap.Plan) *swap.Refusal {
	if plan == nil {
		return nil
	}
	for _, e := range plan.Edits {
		if id := h.ids[e.Index]; id == fieldDropped || id == fieldHop {
			return refuseConnection
		}
	}
	return nil
}

// room is how much longer than its source a rendered head may be.
func room(plan *swap.Plan, t *swap.Target) int {
	n := 256 + len(t.Host)
	if plan != nil {
		n += plan.Room()
	}
	return n
}

var identityCoding = []byte("identity")

// appendTo writes the head as it goes to the upstream. narrow asks for answers
// that can be searched. dst must have room: a key must not be left behind in
// memory that was outgrown.
func (h *requestHead) appendTo(dst []byte, t *swap.Target, plan *swap.Plan, narrow bool) []byte {
	dst = append(dst, h.method...)
	dst = append(dst, ' ')
	if plan.Target() {
		dst = plan.AppendTarget(dst)
	} else {
		dst = append(dst, h.target...)
	}
	if h.http10 {
		dst = append(dst, " HTTP/1.0\r\n"...)
	} else {
		dst = append(dst, " HTTP/1.1\r\n"...)
	}
	var edits []swap.Edit
	if plan != nil {
		edits = plan.Edits
	}
	for i := range h.fields {
		if len(edits) > 0 && edits[0].Index == i {
			dst = append(append(dst, h.fields[i].Name...), ": "...)
			dst = append(edits[0].AppendValue(dst), "\r\n"...)
			edits = edits[1:]
			continue
		}
		dst = h.appendLine(dst, i, t, narrow)
	}
	switch {
	case h.websocket:
		dst = h.appendOffers(append(dst, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...))
	case h.trailers:
		dst = append(dst, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	if h.reframed {
		dst = strconv.AppendInt(append(dst, "Content-Length: "...), int64(h.newLength), 10)
		dst = append(dst, "\r\n"...)
	}
	return append(dst, "\r\n"...)
}

// appendLine writes one field, in its place and with its name as it came.
func (h *requestHead) appendLine(dst []byte, i int, t *swap.Target, narrow bool) []byte {
	f := &h.fields[i]
	switch h.ids[i] {
	case fieldConnection, fieldHop, fieldTE, fieldUpgrade, fieldHTTP2Setting, fieldDropped, fieldWSExtensions:
		return dst
	case fieldHost:
		dst = append(append(dst, f.Name...), ": "...)
		return append(appendAuthority(dst, t), "\r\n"...)
	case fieldAcceptEncoding, fieldMessageAccept:
		if narrow {
			return appendField(dst, f.Name, identityCoding)
		}
	case fieldContentLength, fieldTransferEncoding, fieldTrailer:
		if h.reframed {
			return dst
		}
	case fieldContentEncoding:
		if h.uncoded {
			return dst
		}
	case fieldExpect:
		if !h.expect {
			return dst
		}
	}
	return appendField(dst, f.Name, f.Value)
}
