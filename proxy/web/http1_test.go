package web

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/superserve/superserve/proxy/audit"
)

const (
	get  = "GET /v1/x?q=1 HTTP/1.1\r\n"
	post = "POST /v1/x HTTP/1.1\r\n"
	host = "Host: " + testHost + "\r\n"
	auth = "Authorization: Bearer " + testPlaceholder + "\r\n"
	end  = "\r\n"
)

// TestRefuses is the list of R5, R1 and the limits: what must not reach an
// upstream, and how it is answered.
func TestRefuses(t *testing.T) {
	many := strings.Repeat("A: b\r\n", maxHeadFields)
	for _, c := range []struct {
		name, raw string
		status    int
	}{
		{"CL and TE", post + host + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"TE and CL", post + host + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400},
		{"TE of two codings", post + host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
		{"TE twice", post + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"TE identity", post + host + "Transfer-Encoding: identity\r\n\r\n", 400},
		{"TE with a vertical tab", post + host + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400},
		{"TE in quotes", post + host + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400},
		{"TE in HTTP/1.0", "POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		{"CL twice", post + host + "Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", 400},
		{"CL list", post + host + "Content-Length: 4, 4\r\n\r\nabcd", 400},
		{"CL signed", post + host + "Content-Length: +4\r\n\r\nabcd", 400},
		{"CL negative", post + host + "Content-Length: -4\r\n\r\nabcd", 400},
		{"CL hex", post + host + "Content-Length: 0x4\r\n\r\nabcd", 400},
		{"CL empty", post + host + "Content-Length:\r\n\r\nabcd", 400},
		{"CL too large", post + host + "Content-Length: 9999999999999999999\r\n\r\nabcd", 400},
		{"CL with a space inside", post + host + "Content-Length: 4 4\r\n\r\nabcd", 400},
		{"obs-fold", get + host + "A: b\r\n c\r\n\r\n", 400},
		{"obs-fold in the first field", get + " A: b\r\n" + host + end, 400},
		{"obs-fold in Authorization", get + host + "Authorization: Bearer\r\n\tx\r\n\r\n", 400},
		{"bare LF after the request line", "GET / HTTP/1.1\n" + host + end, 400},
		{"bare LF after a field", get + "Host: " + testHost + "\n\r\n", 400},
		{"bare LF everywhere", "GET / HTTP/1.1\nHost: x\n\n", 400},
		{"LF at the beginning", "\n" + get + host + end, 400},
		{"bare CR in a value", get + host + "A: b\rc\r\n\r\n", 400},
		{"bare CR before a field", get + host + "\rA: b\r\n\r\n", 400},
		{"NUL in a value", get + host + "A: b\x00c\r\n\r\n", 400},
		{"NUL in a name", get + host + "A\x00: b\r\n\r\n", 400},
		{"DEL in a value", get + host + "A: b\x7f\r\n\r\n", 400},
		{"space before the colon", get + host + "A : b\r\n\r\n", 400},
		{"tab before the colon", get + "Host\t: " + testHost + "\r\n\r\n", 400},
		{"empty name", get + host + ": b\r\n\r\n", 400},
		{"no colon", get + host + "Abc\r\n\r\n", 400},
		{"name of obs-text", get + host + "\xe4: b\r\n\r\n", 400},
		{"chunk size 0x", post + host + "Transfer-Encoding: chunked\r\n\r\n0x4\r\nabcd\r\n0\r\n\r\n", 400},
		{"chunk size signed", post + host + "Transfer-Encoding: chunked\r\n\r\n+4\r\nabcd\r\n0\r\n\r\n", 400},
		{"chunk size empty", post + host + "Transfer-Encoding: chunked\r\n\r\n\r\nabcd\r\n0\r\n\r\n", 400},
		{"chunk size too long", post + host + "Transfer-Encoding: chunked\r\n\r\n1000000000000000\r\nabcd\r\n0\r\n\r\n", 400},
		{"chunk with bare LF", post + host + "Transfer-Encoding: chunked\r\n\r\n4\nabcd\r\n0\r\n\r\n", 400},
		{"chunk data too long", post + host + "Transfer-Encoding: chunked\r\n\r\n4\r\nabcde\r\n0\r\n\r\n", 400},
		{"chunk data ended by LF", post + host + "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\n0\r\n\r\n", 400},
		{"chunk extension with CR", post + host + "Transfer-Encoding: chunked\r\n\r\n4;a\rb\r\nabcd\r\n0\r\n\r\n", 400},
		{"chunk extension with NUL", post + host + "Transfer-Encoding: chunked\r\n\r\n4;a\x00\r\nabcd\r\n0\r\n\r\n", 400},
		{"chunk extension too long", post + host + "Transfer-Encoding: chunked\r\n\r\n4;" + strings.Repeat("a", 300) + "\r\nabcd\r\n0\r\n\r\n", 400},
		{"space after chunk size", post + host + "Transfer-Encoding: chunked\r\n\r\n4 \r\nabcd\r\n0\r\n\r\n", 400},
		{"trailer with obs-fold", post + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n", 400},
		{"absolute form of another host", "GET https://evil.example.net/ HTTP/1.1\r\n" + host + end, 400},
		{"absolute form of http", "GET http://" + testHost + "/ HTTP/1.1\r\n" + host + end, 400},
		{"absolute form with user information", "GET https://" + testHost + "@evil.example.net/ HTTP/1.1\r\n" + host + end, 400},
		{"absolute form of another host in both", "GET https://evil.example.net/ HTTP/1.1\r\nHost: evil.example.net\r\n\r\n", 421},
		{"target without a slash", "GET x HTTP/1.1\r\n" + host + end, 400},
		{"target with a fragment", "GET /#x HTTP/1.1\r\n" + host + end, 400},
		{"target with a space", "GET /a b HTTP/1.1\r\n" + host + end, 400},
		{"target with NUL", "GET /\x00 HTTP/1.1\r\n" + host + end, 400},
		{"asterisk of GET", "GET * HTTP/1.1\r\n" + host + end, 400},
		{"target too long", "GET /" + strings.Repeat("a", maxTargetBytes) + " HTTP/1.1\r\n" + host + end, 414},
		{"Host of two names", get + "Host: " + testHost + ",evil.example.net\r\n\r\n", 400},
		{"Host twice", get + host + host + end, 400},
		{"Host missing", get + end, 400},
		{"Host empty", get + "Host:\r\n\r\n", 400},
		{"Host with NUL", get + "Host: " + testHost + "\x00.example.net\r\n\r\n", 400},
		{"Host with percent NUL", get + "Host: " + testHost + "%00.example.net\r\n\r\n", 400},
		{"Host with a space", get + "Host: " + testHost + " x\r\n\r\n", 400},
		{"Host with user information", get + "Host: a@" + testHost + "\r\n\r\n", 400},
		{"Host of another name", get + "Host: evil.example.net\r\n\r\n", 421},
		{"Host below the name", get + "Host: x." + testHost + "\r\n\r\n", 421},
		{"Host that ends in the name", get + "Host: evil" + testHost + "\r\n\r\n", 421},
		{"Host of another port", get + "Host: " + testHost + ":8443\r\n\r\n", 421},
		{"Host of port 0443", get + "Host: " + testHost + ":0443\r\n\r\n", 400},
		{"Host of an address", get + "Host: 127.0.0.1\r\n\r\n", 400},
		{"Host of an IPv6 address", get + "Host: [::1]\r\n\r\n", 400},
		{"Host in full-width letters", get + "Host: ａpi.example.com\r\n\r\n", 400},
		{"TRACE", "TRACE / HTTP/1.1\r\n" + host + end, 405},
		{"CONNECT", "CONNECT " + testHost + ":443 HTTP/1.1\r\n" + host + end, 405},
		{"h2c", get + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", 400},
		{"h2c beside websocket", get + host + "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", 400},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		{"HTTP/1.2", "GET / HTTP/1.2\r\n" + host + end, 505},
		{"HTTP/0.9", "GET /\r\n\r\n", 400},
		{"version in lower case", "GET / http/1.1\r\n" + host + end, 400},
		{"no method", " / HTTP/1.1\r\n" + host + end, 400},
		{"method with a bracket", "GE(T / HTTP/1.1\r\n" + host + end, 400},
		{"method too long", strings.Repeat("A", 40) + " / HTTP/1.1\r\n" + host + end, 400},
		{"two spaces", "GET  / HTTP/1.1\r\n" + host + end, 400},
		{"TLS inside TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400},
		{"too many fields", get + host + many + end, 431},
		{"head too long", get + host + "A: " + strings.Repeat("a", maxHeadBytes) + "\r\n\r\n", 431},
		{"Expect of something else", post + host + "Content-Length: 1\r\nExpect: 200-ok\r\n\r\na", 417},
		{"Connection that strips Host", get + host + "Connection: host\r\n\r\n", 400},
		{"Connection that strips the credential", get + host + auth + "Connection: Authorization\r\n\r\n", 400},
		{"Connection that strips another credential", get + host + "X-Api-Key: " + testPlaceholder + "\r\nConnection: x-api-key\r\n\r\n", 400},
		{"Connection that strips Content-Length", post + host + "Content-Length: 4\r\nConnection: content-length\r\n\r\nabcd", 400},
		{"Connection that is no token", get + host + "Connection: a b\r\n\r\n", 400},
		{"a credential of its own", get + host + "Authorization: Bearer mine\r\n\r\n", 403},
		{"two credentials", get + host + auth + auth + end, 403},
		{"a credential of its own beside", get + host + auth + "X-Api-Key: mine\r\n\r\n", 403},
		{"websocket with a short key", get + host + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n\r\n", 400},
		{"websocket with a body", get + host + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 3\r\n\r\nabc", 400},
		{"TE with something before chunked", post + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400},
		{"TE with something after chunked", post + host + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400},
		{"TE with a parameter", post + host + "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400},
		{"TE empty", post + host + "Transfer-Encoding:\r\n\r\n0\r\n\r\n", 400},
		{"TE with a space before the colon", post + host + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400},
		{"TE folded", post + host + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400},
		{"CL of two values in two fields", post + host + "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde", 400},
		{"CL list with an empty element", post + host + "Content-Length: 4,\r\n\r\nabcd", 400},
		{"CL with a separator of digits", post + host + "Content-Length: 1_0\r\n\r\nabcdefghij", 400},
		{"CL with a fraction", post + host + "Content-Length: 4.0\r\n\r\nabcd", 400},
		{"CL in full-width digits", post + host + "Content-Length: ４\r\n\r\nabcd", 400},
		{"CL with a vertical tab", post + host + "Content-Length: \x0b4\r\n\r\nabcd", 400},
		{"chunk size negative", post + host + "Transfer-Encoding: chunked\r\n\r\n-1\r\nabcd\r\n0\r\n\r\n", 400},
		{"chunk size with a tab", post + host + "Transfer-Encoding: chunked\r\n\r\n\t4\r\nabcd\r\n0\r\n\r\n", 400},
		{"chunk size with a separator", post + host + "Transfer-Encoding: chunked\r\n\r\n1_0\r\n\r\n0\r\n\r\n", 400},
		{"chunk size of many zeros", post + host + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", 300) + "4\r\nabcd\r\n0\r\n\r\n", 400},
		{"chunk size ended by CR alone", post + host + "Transfer-Encoding: chunked\r\n\r\n4\rabcd\r\n0\r\n\r\n", 400},
		{"chunk extension ended by LF", post + host + "Transfer-Encoding: chunked\r\n\r\n4;a\nabcd\r\n0\r\n\r\n", 400},
		{"chunk data without an end", post + host + "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd0\r\n\r\n", 400},
		{"last chunk ended by LF", post + host + "Transfer-Encoding: chunked\r\n\r\n0\n\n", 400},
		{"trailer ended by LF", post + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n", 400},
		{"trailer without a colon", post + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nGET / HTTP/1.1\r\n\r\n", 400},
		{"Host with a tab", get + "Host: " + testHost + "\tx\r\n\r\n", 400},
		{"Host with a path", get + "Host: " + testHost + "/x\r\n\r\n", 400},
		{"Host with a query", get + "Host: " + testHost + "?x\r\n\r\n", 400},
		{"Host with two ports", get + "Host: " + testHost + ":443:443\r\n\r\n", 400},
		{"Host with an empty label", get + "Host: api..example.com\r\n\r\n", 400},
		{"Host with two dots at the end", get + "Host: " + testHost + "..\r\n\r\n", 400},
		{"Host with a dot before it", get + "Host: ." + testHost + "\r\n\r\n", 400},
		{"Host with an ideographic dot", get + "Host: api。example.com\r\n\r\n", 400},
		{"Host with a Cyrillic letter", get + "Host: \u0430pi.example.com\r\n\r\n", 400},
		{"Host in punycode", get + "Host: xn--pi-7kc.example.com\r\n\r\n", 421},
		{"Host of a decimal address", get + "Host: 2130706433\r\n\r\n", 400},
		{"Host of a hexadecimal address", get + "Host: 0x7f000001\r\n\r\n", 400},
		{"Host of an octal address", get + "Host: 0177.0.0.1\r\n\r\n", 400},
		{"Host of an address with a zone", get + "Host: [fe80::1%25lo]\r\n\r\n", 400},
		{"Host before a good one by a name of obs-text", get + "H\xf6st: x\r\n" + host + end, 400},
		{"Host of a cut name", get + "Host: api.example.co\r\n\r\n", 421},
		{"Host with the name as a label", get + "Host: " + testHost + ".evil.net\r\n\r\n", 421},
		{"absolute form with another port", "GET https://" + testHost + ":8443/ HTTP/1.1\r\n" + host + end, 400},
		{"absolute form of ftp", "GET ftp://" + testHost + "/ HTTP/1.1\r\n" + host + end, 400},
		{"authority form of GET", "GET " + testHost + ":443 HTTP/1.1\r\n" + host + end, 400},
		{"target empty", "GET  HTTP/1.1\r\n" + host + end, 400},
		{"target with a tab", "GET /a\tb HTTP/1.1\r\n" + host + end, 400},
		{"target with DEL", "GET /\x7f HTTP/1.1\r\n" + host + end, 400},
		{"tabs between the words", "GET\t/\tHTTP/1.1\r\n" + host + end, 400},
		{"a space after the version", "GET / HTTP/1.1 \r\n" + host + end, 400},
		{"a word after the version", "GET / HTTP/1.1 x\r\n" + host + end, 400},
		{"version 1.10", "GET / HTTP/1.10\r\n" + host + end, 505},
		{"version 01.1", "GET / HTTP/01.1\r\n" + host + end, 505},
		{"version 1,1", "GET / HTTP/1,1\r\n" + host + end, 505},
		{"version 3.0", "GET / HTTP/3.0\r\n" + host + end, 505},
		{"method with NUL", "GE\x00T / HTTP/1.1\r\n" + host + end, 400},
		{"two empty lines before it", "\r\n\r\n" + get + host + end, 400},
		{"a space before it", " " + get + host + end, 400},
		{"a name in quotes", get + host + "\"A\": b\r\n\r\n", 400},
		{"a name with a slash", get + host + "A/b: c\r\n\r\n", 400},
		{"a head ended by CR CR LF", get + host + "\r\r\n\r\n", 400},
		{"h2c by prior knowledge after a request line", "PRI * HTTP/1.1\r\n" + host + end, 400},
		{"websocket of HTTP/1.0", "GET / HTTP/1.0\r\n" + host + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 400},
		{"websocket of POST", "POST / HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			rig := newH1Rig(t)
			var seen counts
			rig.script(func(c net.Conn, r *bufio.Reader) { io.Copy(&seen, r) })
			res, body, err := rig.exchange(c.raw)
			if err != nil {
				t.Fatalf("no answer: %v", err)
			}
			if res.StatusCode != c.status || res.Header.Get("X-Superserve-Error") == "" {
				t.Errorf("got %d %q, want %d; %s", res.StatusCode, res.Header.Get("X-Superserve-Error"), c.status, body)
			}
			if !strings.Contains(body, `"reason"`) {
				t.Errorf("body is no refusal: %q", body)
			}
			if s := seen.String(); s != "" {
				t.Errorf("the upstream saw %q", s)
			}
		})
	}
}

// TestForwards is what must pass, and as what.
func TestForwards(t *testing.T) {
	for _, c := range []struct{ name, raw, want string }{
		{"a plain request", get + host + "A: b\r\n\r\n", get + host + "A: b\r\n\r\n"},
		{"an empty line before it", "\r\n" + get + host + end, get + host + end},
		{"names as they were written", "GET / HTTP/1.1\r\nhOST: " + testHost + "\r\nx-A:b\r\n\r\n", "GET / HTTP/1.1\r\nhOST: " + testHost + "\r\nx-A: b\r\n\r\n"},
		{"the canonical Host", "GET / HTTP/1.1\r\nHost: API.Example.COM.:443\r\n\r\n", "GET / HTTP/1.1\r\n" + host + end},
		{"absolute form as origin form", "GET https://" + testHost + "/a?b HTTP/1.1\r\n" + host + end, "GET /a?b HTTP/1.1\r\n" + host + end},
		{"absolute form without a path", "GET HTTPS://" + testHost + ":443 HTTP/1.1\r\n" + host + end, "GET / HTTP/1.1\r\n" + host + end},
		{"the real key", get + host + auth + end, get + host + "Authorization: Bearer " + testKey + "\r\n\r\n"},
		{"identity beside a real key", get + auth + host + "Accept-Encoding: gzip, br\r\n\r\n", get + "Authorization: Bearer " + testKey + "\r\n" + host + "Accept-Encoding: identity\r\n\r\n"},
		{"identity where a key is bound", get + host + "Accept-Encoding: gzip, br\r\n\r\n", get + host + "Accept-Encoding: identity\r\n\r\n"},
		{"no hop-by-hop field", get + host + "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: deflate\r\nUpgrade-Insecure-Requests: 1\r\n\r\n", get + host + "Upgrade-Insecure-Requests: 1\r\n\r\n"},
		{"trailers asked for", get + host + "TE: trailers\r\nConnection: TE\r\n\r\n", get + host + "Connection: TE\r\nTE: trailers\r\n\r\n"},
		{"no Connection: close", get + host + "Connection: close\r\n\r\n", get + host + end},
		{"a placeholder elsewhere as it is", get + host + "User-Agent: " + testPlaceholder + "\r\nCookie: a=" + testPlaceholder + "\r\n\r\n", get + host + "User-Agent: " + testPlaceholder + "\r\nCookie: a=" + testPlaceholder + "\r\n\r\n"},
		{"a body of Content-Length", post + host + "Content-Length: 004\r\n\r\nabcd", post + host + "Content-Length: 004\r\n\r\nabcd"},
		{"chunks without their extensions", post + host + "Transfer-Encoding: chunked\r\n\r\n004;a=b\r\nabcd\r\n0;x\r\n\r\n", post + host + "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"},
		{"trailers without credentials", post + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\nAuthorization: x\r\nX-Api-Key: y\r\nContent-Length: 3\r\n\r\n", post + host + "Transfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n"},
		{"OPTIONS of everything", "OPTIONS * HTTP/1.1\r\n" + host + end, "OPTIONS * HTTP/1.1\r\n" + host + end},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n" + host + "Connection: keep-alive\r\n\r\n", "GET / HTTP/1.0\r\n" + host + end},
		{"obs-text", get + host + "A: \xe4\xf6\r\n\r\n", get + host + "A: \xe4\xf6\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rig := newH1Rig(t)
			got := make(chan string, 1)
			rig.script(func(conn net.Conn, r *bufio.Reader) {
				buf := make([]byte, len(c.want))
				n, _ := io.ReadFull(r, buf)
				got <- string(buf[:n])
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				io.Copy(io.Discard, r)
			})
			res, body, err := rig.exchange(c.raw)
			if err != nil || res.StatusCode != 200 || body != "ok" {
				t.Fatalf("got %v %q %v", res, body, err)
			}
			if got := <-got; got != c.want {
				t.Errorf("the upstream got\n%q, want\n%q", got, c.want)
			}
		})
	}
}

// TestSplitAnywhere sends a pipelined pair in two writes, cut at every offset:
// the upstream must see the same bytes each time.
func TestSplitAnywhere(t *testing.T) {
	raw := post + host + auth + "Transfer-Encoding: chunked\r\n\r\n4;x\r\nabcd\r\n0\r\nX-Sum: 1\r\n\r\n" + get + host + end
	want := post + host + "Authorization: Bearer " + testKey + "\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\nX-Sum: 1\r\n\r\n"
	rig := newH1Rig(t)
	got := make(chan string, 1)
	rig.script(func(conn net.Conn, r *bufio.Reader) {
		for {
			buf := make([]byte, len(want))
			if n, err := io.ReadFull(r, buf); err != nil {
				if n > 0 {
					got <- string(buf[:n])
				}
				return
			}
			head, err := "", error(nil)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			if head, err = readHead(r); err != nil {
				return
			}
			got <- string(buf) + head
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok2")
		}
	})
	for i := 1; i < len(raw); i++ {
		c := rig.dial()
		io.WriteString(c, raw[:i])
		io.WriteString(c, raw[i:])
		r := bufio.NewReader(c)
		for _, body := range []string{"ok", "ok2"} {
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("cut at %d: %v", i, err)
			}
			if b, _ := io.ReadAll(res.Body); string(b) != body {
				t.Fatalf("cut at %d: got %q, want %q", i, b, body)
			}
		}
		if got := <-got; got != want+get+host+end {
			t.Fatalf("cut at %d: the upstream got\n%q", i, got)
		}
		c.Close()
		<-rig.ended
	}
}

// TestPipelined: each request is judged on its own.
func TestPipelined(t *testing.T) {
	rig := newH1Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
	c := rig.dial()
	io.WriteString(c, "GET /1 HTTP/1.1\r\n"+host+end+"GET /2 HTTP/1.1\r\n"+host+end+"GET /3 HTTP/1.1\r\nHost: evil.example.net\r\n\r\n"+"GET /4 HTTP/1.1\r\n"+host+end)
	r := bufio.NewReader(c)
	for _, want := range []string{"200 /1", "200 /2", "421 "} {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		if got := fmt.Sprintf("%d %s", res.StatusCode, body); !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if _, err := r.ReadByte(); err == nil {
		t.Error("the connection goes on after a misdirected request")
	}
}

func TestAudit(t *testing.T) {
	rig := newH1Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })
	if _, _, err := rig.exchange(get + host + auth + "Connection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-rig.ended
	events := rig.records.all()
	if len(events) != 2 {
		t.Fatalf("got %d events, want 2: %+v", len(events), events)
	}
	if e := events[0]; e.Kind != audit.Credential || e.Secret != "TEST_API_KEY" || e.Verdict != audit.Allowed {
		t.Errorf("first event: %+v", e)
	}
	e := events[1]
	if e.Kind != audit.Request || e.Method != "GET" || e.Path != "/v1/x" || e.Status != 200 || e.Secret != "TEST_API_KEY" || e.Sent == 0 || e.Received == 0 {
		t.Errorf("second event: %+v", e)
	}
}

// TestAuditHidesPlaceholder: what does not belong into a path does not get into the log either.
func TestAuditHidesPlaceholder(t *testing.T) {
	rig := newH1Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })
	if _, _, err := rig.exchange("GET /v1/" + testPlaceholder + "?q HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-rig.ended
	if events := rig.records.all(); len(events) != 1 || strings.Contains(fmt.Sprint(events), testPlaceholder) {
		t.Errorf("recorded %+v", events)
	}
}

// TestUnrecordedUse: a credential use that cannot be recorded does not happen.
func TestUnrecordedUse(t *testing.T) {
	rig := newH1Rig(t)
	rig.records.failUses()
	var seen counts
	rig.script(func(c net.Conn, r *bufio.Reader) { io.Copy(&seen, r) })
	res, _, err := rig.exchange(get + host + auth + "Connection: close\r\n\r\n")
	if err != nil || res.StatusCode != 503 || res.Header.Get("X-Superserve-Error") != "not_recorded" {
		t.Fatalf("got %v %v", res, err)
	}
	<-rig.ended
	if seen.String() != "" {
		t.Errorf("the upstream saw %q", seen.String())
	}
}

func TestRevokedMidConnection(t *testing.T) {
	rig := newH1Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })
	c := rig.dial()
	r := bufio.NewReader(c)
	for i, want := range []int{200, 503, 200} {
		rig.keys.mu.Lock()
		rig.keys.revoked = i == 1
		rig.keys.mu.Unlock()
		io.WriteString(c, get+host+auth+end)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		if res.StatusCode != want {
			t.Errorf("request %d: got %d, want %d", i, res.StatusCode, want)
		}
	}
}
