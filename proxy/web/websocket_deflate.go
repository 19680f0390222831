package web

import (
	"bytes"
	"strconv"
)

// deflateName is the one extension that is passed on (RFC 7692).
const deflateName = "permessage-deflate"

// deflate is one element of a Sec-WebSocket-Extensions list: what a client offers
// or a server takes of permessage-deflate.
type deflate struct {
	forgets bool // server_no_context_takeover: each message of the server begins anew
}

// eachOffer calls f with each element of the field's value that is a well-formed
// permessage-deflate. Nothing else goes on: other extensions may hide data from the
// search. A quoted value is none of this extension's, so a list with one is none.
func eachOffer(value []byte, answer bool, f func(element []byte, d deflate)) (others bool) {
	if bytes.IndexByte(value, '"') >= 0 {
		return true
	}
	for element := range bytes.SplitSeq(value, []byte{','}) {
		element = bytes.Trim(element, " \t")
		if d, ok := parseDeflate(element, answer); ok {
			f(element, d)
		} else if len(element) > 0 {
			others = true
		}
	}
	return others
}

// parseDeflate reads one element. answer says that a server sent it, whose
// client_max_window_bits must have a value (RFC 7692 §7.1).
func parseDeflate(element []byte, answer bool) (d deflate, ok bool) {
	name, rest, more := bytes.Cut(element, []byte{';'})
	if !foldEqual(bytes.Trim(name, " \t"), deflateName) {
		return d, false
	}
	seen := 0
	for more {
		var parameter []byte
		parameter, rest, more = bytes.Cut(rest, []byte{';'})
		bit := deflateParameter(bytes.Trim(parameter, " \t"), answer)
		if bit == 0 || seen&bit != 0 {
			return d, false
		}
		seen |= bit
	}
	return deflate{forgets: seen&serverForgets != 0}, true
}

// The parameters of permessage-deflate.
const (
	serverForgets = 1 << iota
	clientForgets
	serverBits
	clientBits
)

// deflateParameter says which one it is, 0 for none that is allowed.
func deflateParameter(parameter []byte, answer bool) int {
	name, value, valued := bytes.Cut(parameter, []byte{'='})
	name, value = bytes.TrimRight(name, " \t"), bytes.TrimLeft(value, " \t")
	switch {
	case foldEqual(name, "server_no_context_takeover") && !valued:
		return serverForgets
	case foldEqual(name, "client_no_context_takeover") && !valued:
		return clientForgets
	case foldEqual(name, "server_max_window_bits") && windowBits(value):
		return serverBits
	case foldEqual(name, "client_max_window_bits") && (windowBits(value) || !valued && !answer):
		return clientBits
	}
	return 0
}

// windowBits takes 8 to 15 without leading zeros (RFC 7692 §7.1.2.1).
func windowBits(value []byte) bool {
	n, err := strconv.Atoi(string(value))
	return err == nil && n >= 8 && n <= 15 && value[0] != '0' && value[0] != '+'
}

// appendOffers writes what of the request's offers goes on, as one field.
func (h *requestHead) appendOffers(dst []byte) []byte {
	between := "Sec-WebSocket-Extensions: "
	h.offers(func(element []byte, _ deflate) {
		dst = append(append(dst, between...), element...)
		between = ", "
	})
	if between == ", " {
		dst = append(dst, "\r\n"...)
	}
	return dst
}

func (h *requestHead) offers(f func([]byte, deflate)) {
	for i, id := range h.ids {
		if id == fieldWSExtensions {
			eachOffer(h.fields[i].Value, false, f)
		}
	}
}

// negotiated reads the extension that the upstream chose: nil for none. It must be
// one, and of those that were offered. Whether its parameters suit the offer is the
// client's to say, which gets them as they are.
func (r *h1relay) negotiated() (d *deflate, ok bool) {
	offered := false
	r.req.offers(func([]byte, deflate) { offered = true })
	n := 0
	for i, id := range r.res.ids {
		if id != fieldWSExtensions {
			continue
		}
		if eachOffer(r.res.fields[i].Value, true, func(_ []byte, taken deflate) { d, n = &taken, n+1 }) {
			return nil, false
		}
	}
	return d, n == 0 || n == 1 && offered
}
