package web

import (
	"errors"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// Why a header list is malformed (RFC 9113 §8.1.1 to 8.3). The texts go to the
// peer in the body of a 400, so they hold no bytes of the wire.
var (
	errPseudo        = errors.New("pseudo-header fields are missing, repeated, unknown or after others")
	errConnect       = errors.New("the CONNECT method is not relayed")
	errMethod        = errors.New("the method is not a token or not relayed")
	errScheme        = errors.New("the scheme is not https")
	errPath          = errors.New("the path is not absolute or holds a character that a path must not hold")
	errHostField     = errors.New("a host field stands beside :authority")
	errFieldName     = errors.New("a field name is empty, not lower case or not a token")
	errFieldValue    = errors.New("a field value holds a control character or outer white space")
	errHopField      = errors.New("a field belongs to one hop of HTTP/1.1")
	errContentLength = errors.New("content-length is not one number")
	errStatus        = errors.New("the status is not one number from 100 to 999, or 101")
)

// h2request is a request's head as parsed. Strings are immutable and may be kept.
type h2request struct {
	method, authority, path string
	fields                  []hpack.HeaderField // those that are not pseudo-header fields, in order
	length                  int64               // content-length, -1 when absent

	reframed, uncoded bool // the content is sent with newLength bytes; without its coding
	newLength         int
}

// parseRequest judges the form of a request's header list: everything except
// whose name :authority is.
func parseRequest(list []hpack.HeaderField) (h2request, error) {
	req := h2request{length: -1}
	var scheme string
	n := 0
	for ; n < len(list) && list[n].IsPseudo(); n++ {
		f := list[n]
		var place *string
		switch f.Name {
		case ":method":
			place = &req.method
		case ":scheme":
			place = &scheme
		case ":authority":
			place = &req.authority
		case ":path":
			place = &req.path
		default: // :protocol too, the extended CONNECT of RFC 8441, which our SETTINGS did not offer
			return req, errPseudo
		}
		if *place != "" || f.Value == "" {
			return req, errPseudo
		}
		*place = f.Value
	}
	req.fields = list[n:]
	if err := req.checkPseudo(scheme); err != nil {
		return req, err
	}
	return req, req.checkFields()
}

func (req *h2request) checkPseudo(scheme string) error {
	switch {
	case req.method == "CONNECT":
		return errConnect
	case !validToken(req.method), req.method == "TRACE", req.method == "TRACK":
		return errMethod
	case req.authority == "", req.path == "":
		return errPseudo
	case scheme != "https":
		return errScheme
	case !validPath(req.method, req.path):
		return errPath
	}
	return nil
}

func (req *h2request) checkFields() error {
	for _, f := range req.fields {
		if err := checkField(f); err != nil {
			return err
		}
		switch f.Name {
		case "host":
			return errHostField
		case "te":
			if f.Value != "trailers" {
				return errHopField
			}
		case "content-length":
			n, ok := parseLength(f.Value)
			if !ok || req.length >= 0 {
				return errContentLength
			}
			req.length = n
		}
	}
	return nil
}

// parseStatus returns the status of a response and its fields after the
// pseudo-header field.
func parseStatus(list []hpack.HeaderField) (int, []hpack.HeaderField, error) {
	if len(list) == 0 || list[0].Name != ":status" {
		return 0, nil, errPseudo
	}
	v := list[0].Value
	if len(v) != 3 || v[0] < '1' || v[0] > '9' || !isDigit(v[1]) || !isDigit(v[2]) || v == "101" {
		return 0, nil, errStatus
	}
	for _, f := range list[1:] {
		if err := checkField(f); err != nil {
			return 0, nil, err
		}
	}
	return int(v[0]-'0')*100 + int(v[1]-'0')*10 + int(v[2]-'0'), list[1:], nil
}

// checkField refuses what RFC 9113 §8.2 calls malformed: pseudo-header fields
// out of place, bad names and values, fields of HTTP/1.1's hops.
func checkField(f hpack.HeaderField) error {
	if f.IsPseudo() {
		return errPseudo
	}
	if f.Name == "" {
		return errFieldName
	}
	for i := 0; i < len(f.Name); i++ {
		if c := f.Name[i]; c >= 'A' && c <= 'Z' || classes[c]&classToken == 0 {
			return errFieldName
		}
	}
	switch f.Name {
	case "connection", "proxy-connection", "proxy-authorization", "keep-alive", "transfer-encoding", "upgrade", "http2-settings":
		return errHopField
	}
	if !validValue(f.Value) {
		return errFieldValue
	}
	return nil
}

// validValue follows RFC 9110 §5.5, with obs-text allowed and HTAB the only
// control character.
func validValue(v string) bool {
	for i := 0; i < len(v); i++ {
		if classes[v[i]]&classValue == 0 {
			return false
		}
	}
	return v == "" || !isBlank(v[0]) && !isBlank(v[len(v)-1])
}

// validPath asks for an absolute path without control characters, space and
// fragment, or `*` of OPTIONS (RFC 9113 §8.3.1).
func validPath(method, path string) bool {
	if path == "*" {
		return method == "OPTIONS"
	}
	if path[0] != '/' {
		return false
	}
	for i := 0; i < len(path); i++ {
		if classes[path[i]]&classTarget == 0 {
			return false
		}
	}
	return true
}

func validToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if classes[s[i]]&classToken == 0 {
			return false
		}
	}
	return s != ""
}

// parseLength reads a content-length of at most 18 digits, without sign or blanks.
func parseLength(s string) (int64, bool) {
	if len(s) == 0 || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		if !isDigit(s[i]) {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// joinCookies makes one cookie field of those that HTTP/2 lets a client split
// (RFC 9113 §8.2.3), so that a cookie is judged as HTTP/1.1 would send it. It
// edits and returns fields.
func joinCookies(fields []hpack.HeaderField) []hpack.HeaderField {
	first, count := -1, 0
	for i, f := range fields {
		if f.Name != "cookie" {
			continue
		}
		if count++; count == 1 {
			first = i
		}
	}
	if count < 2 {
		return fields
	}
	var all strings.Builder
	kept := fields[:first+1]
	for i, f := range fields[first:] {
		if f.Name != "cookie" {
			kept = append(kept, f)
			continue
		}
		if i > 0 {
			all.WriteString("; ")
		}
		all.WriteString(f.Value)
		kept[first].Sensitive = kept[first].Sensitive || f.Sensitive
	}
	kept[first].Value = all.String()
	return kept
}
