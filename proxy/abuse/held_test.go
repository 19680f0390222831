package abuse

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
)

// TestHeldBodies: contents of a MiB each that a key may stand in, so that they are held until they are whole, which none
// ever is: 480 on 60 connections of HTTP/2, 200 of HTTP/1.1. A run holds 64 MiB of them and refuses the rest; then
// an honest request goes through as before.
func TestHeldBodies(t *testing.T) {
	up := newUpstream(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	t.Run("HTTP/2", func(t *testing.T) {
		v := start(t, up, func(c *childConfig) { c.Bodies = true })
		before, files := v.stats("gc"), v.files()
		var peers []*peer
		v.measure(func() {
			for range 60 {
				p := v.attack()
				peers = append(peers, p)
				for i := range uint32(8) {
					p.headers(2*i+1, false, request("POST", "/", "content-type", "application/json")...)
				}
				p.w.Flush()
				for i := range uint32(8) {
					for range 63 {
						if p.fr.WriteData(2*i+1, false, bytes.Repeat([]byte(" "), 16000)) != nil {
							break
						}
					}
				}
				p.w.Flush()
			}
			v.quiet()
		}).within(t, cost{Peak: 256 * MiB})
		for _, p := range peers {
			p.leave()
		}
		v.settles(before, files)
		v.warm()
	})
	t.Run("HTTP/1.1", func(t *testing.T) {
		v := start(t, up, func(c *childConfig) { c.Bodies = true })
		before, files := v.stats("gc"), v.files()
		var conns []net.Conn
		v.measure(func() {
			text := fmt.Sprintf("POST / HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", host, MiB, bytes.Repeat([]byte(" "), MiB-1))
			conns = v.slow(200, v.over(text))
			v.quiet()
		}).within(t, cost{Peak: 256 * MiB})
		for _, c := range conns {
			c.Close()
		}
		v.settles(before, files)
		v.warm()
	})
}
