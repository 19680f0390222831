package web

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/superserve/superserve/proxy/swap"
)

// wsGUID is appended to a key before it is hashed (RFC 6455 §1.3).
const wsGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// acceptKey is the Sec-WebSocket-Accept that answers key. SHA-1 is a checksum
// here, against answers that were not meant for a WebSocket.
func acceptKey(key []byte) (accept [28]byte) {
	h := sha1.New()
	h.Write(key)
	io.WriteString(h, wsGUID) //nolint:errcheck // a hash takes all
	base64.StdEncoding.Encode(accept[:], h.Sum(nil))
	return accept
}

// validWebSocket checks a handshake (RFC 6455 §4.1): GET without a body, version
// 13, one key of 16 bytes.
func (h *requestHead) validWebSocket() bool {
	if string(h.method) != http.MethodGet || h.http10 || h.body == bodyChunked || h.length > 0 {
		return false
	}
	keys, versions := 0, 0
	for i, id := range h.ids {
		switch id {
		case fieldWSKey:
			var key [18]byte
			n, err := base64.StdEncoding.Decode(key[:], h.fields[i].Value[:min(len(h.fields[i].Value), 24)])
			if err != nil || n != 16 || len(h.fields[i].Value) != 24 {
				return false
			}
			keys++
		case fieldWSVersion:
			if string(h.fields[i].Value) != "13" {
				return false
			}
			versions++
		}
	}
	return keys == 1 && versions == 1
}

// switchProtocols opens the tunnel after a valid 101 of n bytes, and only then:
// what the client sent early has waited in its buffer. Of extensions only
// permessage-deflate may have been chosen, which the search knows how to undo.
func (r *h1relay) switchProtocols(n int) (keep bool, fault *swap.Refusal, err error) {
	deflated, ok := r.negotiated()
	if !ok || !r.req.websocket || !r.res.upgrade || string(r.res.wsAccept) != string(r.accept[:]) {
		return false, faultSwitch, nil
	}
	if r.watch.disarm() {
		return false, nil, errGone
	}
	r.event.Status = http.StatusSwitchingProtocols
	r.back = r.res.appendTo(r.back[:0], bodyNone, false, false)
	r.up.consume(n)
	if err := r.flush(); err != nil {
		return false, nil, err
	}
	return false, nil, r.tunnel(deflated)
}

// tunnel relays both directions until one ends, then ends the other. What the client
// says passes as it is, compressed or not: no key is put into frames.
func (r *h1relay) tunnel(deflated *deflate) error {
	fromClient := make(chan int64, 1)
	go func() {
		n := relayBytes(r.up.conn, &r.in)
		r.up.conn.Close() //nolint:errcheck // the client has ended: nobody reads on
		fromClient <- n
	}()
	var err error
	if !r.s.searched() {
		r.event.Received += relayBytes(r.in.conn, &r.up)
	} else {
		err = r.relayFrames(deflated)
	}
	r.in.conn.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // ends the other direction
	r.event.Sent += <-fromClient
	return err
}

// relayBytes copies what w reads to dst until either fails, and returns how many
// bytes that were.
func relayBytes(dst io.Writer, w *window) (sent int64) {
	for {
		if !w.empty() {
			n, err := dst.Write(w.bytes())
			sent += int64(n)
			if err != nil {
				return sent
			}
			w.consume(len(w.bytes()))
		}
		if w.fill(recordBuffer) != nil {
			return sent
		}
	}
}

// relayFrames redacts what the server says. An end between frames is the
// server's; a frame that breaks the protocol ends the tunnel.
func (r *h1relay) relayFrames(deflated *deflate) error {
	f := frames{stream: r.covering().Stream(), value: r.clean, deflate: deflated != nil, meter: r.meter}
	r.meter.Socket()
	u := unpacker{relay: r, f: &f, forgets: f.deflate && deflated.forgets}
	defer u.wipe()
	for {
		var n int
		var ok bool
		f.stream.Widen(r.covering())
		r.back, n, ok = f.redact(r.back, r.up.bytes())
		r.up.consume(n)
		r.event.Received += int64(n)
		if ok && f.packed {
			if err := u.message(); err != nil {
				return err
			}
			continue
		}
		if err := r.flush(); err != nil {
			return err
		}
		if !ok {
			return errFrame
		}
		if err := r.up.fill(recordBuffer); err != nil {
			if errors.Is(err, io.EOF) && r.up.empty() && f.left == 0 {
				return nil
			}
			return errTruncated
		}
		if r.meter.Over() {
			return errBudget
		}
	}
}
