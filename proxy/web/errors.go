package web

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/superserve/superserve/proxy/dial"
	"github.com/superserve/superserve/proxy/swap"
)

// Refusals of what a client sent. Each is shared and read-only.
var (
	refuseBareLF     = badRequest("bare_lf", "a line does not end in CRLF")
	refuseObsFold    = badRequest("obs_fold", "a field is folded over several lines")
	refuseField      = badRequest("bad_field", "a field line is no name, colon and value")
	refuseValue      = badRequest("bad_field", "a field value has a control character")
	refuseLine       = badRequest("bad_request_line", "the request line is not method, target and version")
	refuseTarget     = badRequest("bad_target", "the request target is malformed")
	refuseUserinfo   = badRequest("bad_target", "the request target carries user information")
	refuseAbsolute   = badRequest("bad_target", "the absolute request target and Host differ")
	refuseHostCount  = badRequest("bad_host", "a request needs exactly one Host")
	refuseHost       = badRequest("bad_host", "the Host field is no host name")
	refuseLength     = badRequest("bad_framing", "Content-Length is not one number")
	refuseBothFrames = badRequest("bad_framing", "a request has both Content-Length and Transfer-Encoding")
	refuseTransfer   = badRequest("bad_framing", "the only Transfer-Encoding that is taken is chunked, once, in HTTP/1.1")
	refuseChunk      = badRequest("bad_chunk", "the chunked body is malformed")
	refuseConnection = badRequest("bad_connection", "Connection names a field that must reach the upstream")
	refuseUpgrade    = badRequest("bad_upgrade", "only an upgrade to websocket is relayed, never h2c")
	refuseWebSocket  = badRequest("bad_websocket", "the WebSocket handshake is malformed (RFC 6455 section 4.1)")

	refuseTimeout408 = &swap.Refusal{Status: http.StatusRequestTimeout, Reason: "request_timeout", Detail: "the request's head did not arrive in time"}
	refuseMethod     = &swap.Refusal{Status: http.StatusMethodNotAllowed, Reason: "method_refused", Detail: "CONNECT and TRACE are not relayed"}
	refuseVersion    = &swap.Refusal{Status: http.StatusHTTPVersionNotSupported, Reason: "version_refused", Detail: "only HTTP/1.1 and HTTP/1.0 are spoken here"}
	refuseExpect     = &swap.Refusal{Status: http.StatusExpectationFailed, Reason: "expect_refused", Detail: "the only expectation that is relayed is 100-continue"}
	refuseTargetSize = &swap.Refusal{Status: http.StatusRequestURITooLong, Reason: "target_too_long", Detail: "the request target is longer than 16 KiB"}
	refuseHeadSize   = &swap.Refusal{Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "head_too_large", Detail: "the request's head is longer than 64 KiB"}
	refuseHeadFields = &swap.Refusal{Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "head_too_large", Detail: "the request's head has more than 200 fields"}
	refuseMisdirect  = &swap.Refusal{Status: http.StatusMisdirectedRequest, Reason: "misdirected", Detail: "the request's host is not the one that was connected to"}
	refuseSNI        = &swap.Refusal{Status: http.StatusMisdirectedRequest, Reason: "misdirected", Detail: "the TLS server name is not the one that was connected to"}
	refuseNoName     = &swap.Refusal{Status: http.StatusMisdirectedRequest, Reason: "no_name", Detail: "the connection was made to an address, not to a name", Advice: "connect by the host's name"}
	refuseCut        = &swap.Refusal{Status: http.StatusServiceUnavailable, Reason: swap.ReasonRevoked, Detail: "a credential was revoked while this request was judged", Advice: "send it again"}
	refuseUnrecorded = &swap.Refusal{Status: http.StatusServiceUnavailable, Reason: "not_recorded", Detail: "the use of a credential could not be recorded"}
)

// Faults of an upstream. The agent gets them only while no byte of an answer
// has been sent.
var (
	faultHead     = badGateway("upstream_malformed", "the upstream's answer is malformed")
	faultFraming  = badGateway("upstream_malformed", "the upstream's answer has ambiguous framing")
	faultSwitch   = badGateway("upstream_malformed", "the upstream switched protocols without a valid WebSocket answer")
	faultInterim  = badGateway("upstream_malformed", "the upstream sent too many interim answers")
	faultCoding   = badGateway("coding_refused", "the upstream's answer is compressed in a way that cannot be searched for the key")
	faultClosed   = badGateway("upstream_closed", "the upstream closed the connection without an answer")
	faultNoAnswer = badGateway("upstream_unreachable", "the upstream cannot be reached")
)

func badRequest(reason, detail string) *swap.Refusal {
	return &swap.Refusal{Status: http.StatusBadRequest, Reason: reason, Detail: detail}
}

func badGateway(reason, detail string) *swap.Refusal {
	return &swap.Refusal{Status: http.StatusBadGateway, Reason: reason, Detail: detail}
}

// dialRefusal turns an error of the Dialer into what the agent is told. The
// cause itself may hold addresses of the host's network, so it stays out.
func dialRefusal(t swap.Target, err error) *swap.Refusal {
	var de *dial.Error
	if !errors.As(err, &de) {
		return faultNoAnswer
	}
	ref := &swap.Refusal{Status: http.StatusBadGateway, Reason: de.Reason()}
	to := targetName(t) + " port " + strconv.Itoa(int(t.Port))
	switch de.Op {
	case dial.OpResolve:
		ref.Detail = "the name " + targetName(t) + " cannot be resolved"
	case dial.OpRefuse:
		ref.Status = http.StatusForbidden
		ref.Detail = "policy refuses the addresses of " + to
	case dial.OpTLS:
		ref.Detail = "the TLS handshake with " + to + " failed, or its certificate is not good"
	default:
		ref.Detail = "no connection to " + to
	}
	if de.Timeout {
		ref.Status = http.StatusGatewayTimeout
		ref.Detail += " (timed out)"
	}
	return ref
}

func targetName(t swap.Target) string {
	if t.Host == "" {
		return t.Addr.String()
	}
	return string(t.Host)
}

// appendRefusal writes an HTTP/1.1 answer that carries ref (R7). close says that
// the connection ends after it, head that the request was HEAD.
func appendRefusal(dst []byte, ref *swap.Refusal, close, head bool) []byte {
	body := ref.Body()
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(ref.Status), 10)
	dst = append(dst, ' ')
	dst = append(dst, http.StatusText(ref.Status)...)
	dst = append(dst, "\r\nContent-Type: application/json\r\nX-Superserve-Error: "...)
	dst = append(dst, ref.Reason...)
	if ref.Status == http.StatusMethodNotAllowed {
		dst = append(dst, "\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"...)
	}
	dst = append(dst, "\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	if close {
		dst = append(dst, "\r\nConnection: close"...)
	}
	dst = append(dst, "\r\n\r\n"...)
	if head {
		return dst
	}
	return append(dst, body...)
}
