package web

import (
	"bytes"
	"net/http"
	"strconv"

	"github.com/superserve/superserve/proxy/swap"
)

// responseHead is a response's head, strictly parsed. Its slices alias the
// bytes it was parsed from. It is reused from response to response.
type responseHead struct {
	fieldLines
	status int
	reason []byte
	http10 bool

	body     int   // bodyNone, bodyLength, bodyChunked or bodyClose
	length   int64 // with bodyLength
	close    bool  // the upstream ends the connection after it
	coding   []byte
	coded    bool   // there is a Content-Encoding other than identity
	codings  int    // Content-Encoding fields
	messages []byte // how the messages in the body are compressed, each on its own
	hidden   int    // fields that say so
	upgrade  bool   // Upgrade: websocket and Connection: upgrade
	wsAccept []byte
}

// parse reads a whole head, as headEnd delimits it. method is the request's.
func (h *responseHead) parse(b, method []byte) *swap.Refusal {
	fields := h.fieldLines
	*h = responseHead{fieldLines: fields}
	line, rest, ok := cutLine(b)
	if !ok || !h.parseLine(line) {
		return faultHead
	}
	if h.fieldLines.parse(rest) != nil {
		return faultHead
	}
	return h.interpret(method)
}

// parseLine takes a status line; some servers leave out the space before an
// empty reason.
func (h *responseHead) parseLine(line []byte) bool {
	if len(line) < len("HTTP/1.1 200") || string(line[:7]) != "HTTP/1." || line[8] != ' ' {
		return false
	}
	if line[7] != '0' && line[7] != '1' {
		return false
	}
	h.http10 = line[7] == '0'
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return false
		}
		h.status = h.status*10 + int(c-'0')
	}
	if rest := line[12:]; len(rest) > 0 {
		if rest[0] != ' ' || !all(rest, classValue) {
			return false
		}
		h.reason = rest[1:]
	}
	return h.status >= 100
}

// interpret reads the fields that frame (RFC 9112 §6.3). A response with both
// framings is read as chunked, forwarded as chunked only, and its connection
// ends after it.
func (h *responseHead) interpret(method []byte) *swap.Refusal {
	h.close = h.http10
	var lengths, chunked int
	var upgrade, connUpgrade, keep bool
	for i, id := range h.ids {
		value := h.fields[i].Value
		switch id {
		case fieldContentLength:
			n, ok := parseDecimal(value)
			if !ok || lengths > 0 {
				return faultFraming
			}
			lengths++
			h.length = n
		case fieldTransferEncoding:
			if chunked > 0 || h.http10 || !foldEqual(value, "chunked") {
				return faultFraming
			}
			chunked++
		case fieldConnection:
			h.listed(value, &keep, &connUpgrade)
		case fieldContentEncoding:
			h.codings++
			h.coding = undone(value)
			h.coded = h.coded || len(h.coding) > 0 && !foldEqual(h.coding, "identity")
		case fieldMessageCoding:
			if len(value) > 0 && !foldEqual(value, "identity") {
				h.hidden++
				h.messages = value
			}
		case fieldUpgrade:
			upgrade = foldEqual(value, "websocket")
		case fieldWSAccept:
			h.wsAccept = value
		}
	}
	h.close = h.close && !keep || lengths > 0 && chunked > 0
	h.upgrade = upgrade && connUpgrade
	h.frame(method, lengths > 0, chunked > 0)
	return nil
}

// compression tells how the body is compressed, and whether that can be undone.
func (h *responseHead) compression() (c coding, known bool) {
	content := ""
	if h.coded {
		content = string(h.coding)
	}
	c, known = codingOf(content, string(h.messages), framingOf(h.contentType()))
	return c, known && (h.codings < 2 || !h.coded) && h.hidden < 2
}

func (h *responseHead) frame(method []byte, length, chunked bool) {
	switch {
	case h.status < 200, h.status == http.StatusNoContent, h.status == http.StatusNotModified, string(method) == "HEAD":
		h.body = bodyNone
	case chunked:
		h.body = bodyChunked
	case length:
		h.body = bodyLength
	default:
		h.body, h.close = bodyClose, true
	}
}

// listed reads a Connection field. What it lists ends here, as the upstream
// wants it, except what frames.
func (h *responseHead) listed(value []byte, keep, upgrade *bool) {
	eachToken(value, func(name []byte) bool {
		switch {
		case foldEqual(name, "close"):
			h.close = true
		case foldEqual(name, "keep-alive"):
			*keep = h.http10
		case foldEqual(name, "upgrade"):
			*upgrade = true
		default:
			h.strip(name)
		}
		return true
	})
}

func (h *responseHead) strip(name []byte) {
	if identify(name) != fieldOther {
		return
	}
	for i := range h.fields {
		if h.ids[i] == fieldOther && bytes.EqualFold(h.fields[i].Name, name) {
			h.ids[i] = fieldDropped
		}
	}
}

// appendTo writes the head as it goes to the client. body is how the body will
// be framed, and the fields that frame follow from it: those of the upstream
// when it is as it came.
func (h *responseHead) appendTo(dst []byte, body int, decoded, close bool) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(h.status), 10)
	dst = append(dst, ' ')
	dst = append(dst, h.reason...)
	dst = append(dst, "\r\n"...)
	for i := range h.fields {
		if h.forwards(h.ids[i], decoded) && !(decoded && checksCoding(h.fields[i].Name)) {
			dst = appendField(dst, h.fields[i].Name, h.fields[i].Value)
		}
	}
	if decoded && body == bodyChunked {
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	}
	if h.status == http.StatusSwitchingProtocols {
		dst = append(dst, "Connection: Upgrade\r\nUpgrade: websocket\r\n"...)
	} else if close {
		dst = append(dst, "Connection: close\r\n"...)
	}
	return append(dst, "\r\n"...)
}

// checksCoding reports whether a field tells a sum of the content as it was coded,
// which no client can check when the coding is gone.
func checksCoding(name []byte) bool {
	const s3 = "x-amz-checksum-"
	for _, sum := range []string{"content-md5", "content-digest", "repr-digest", "digest"} {
		if foldEqual(name, sum) {
			return true
		}
	}
	return len(name) > len(s3) && foldEqual(name[:len(s3)], s3)
}

// forwards reports whether a field goes to the client. Alt-Svc would lead the
// agent around the proxy.
func (h *responseHead) forwards(id fieldID, decoded bool) bool {
	switch id {
	case fieldConnection, fieldHop, fieldUpgrade, fieldDropped, fieldAltSvc:
		return false
	case fieldWSExtensions:
		return h.status == http.StatusSwitchingProtocols // checked there
	case fieldContentLength:
		// 1xx and 204 have none (RFC 9110 §8.6); beside chunked it would be a
		// second opinion.
		return !decoded && h.body != bodyChunked && h.status >= 200 && h.status != http.StatusNoContent
	case fieldTransferEncoding:
		return !decoded && h.status >= 200 && h.status != http.StatusNoContent
	case fieldContentEncoding, fieldMessageCoding:
		return !decoded
	}
	return true
}
