package web

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// TestDataWithTheEnd has an upstream's last bytes and its close_notify come in one
// segment, so that one read gives the data and the end: none of it is lost, and the
// key in it is found.
func TestDataWithTheEnd(t *testing.T) {
	body := strings.Repeat("x", 3000) + testKey
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	io.WriteString(w, body)
	w.Close()
	for name, answer := range map[string]string{
		"by its end":    "\r\n" + body,
		"by its length": fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body),
		"in chunks":     fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body),
		"compressed":    "Content-Encoding: gzip\r\n\r\n" + zipped.String(),
	} {
		t.Run("it relays a body framed "+name, func(t *testing.T) {
			rig := newH1Rig(t)
			rig.script(func(c net.Conn, r *bufio.Reader) {
				if _, err := readHead(r); err != nil {
					return
				}
				cork(t, c, 1)
				io.WriteString(c, "HTTP/1.1 200 OK\r\n"+answer)
				c.(*tls.Conn).CloseWrite()
				cork(t, c, 0)
			})
			res, got, err := rig.exchange(get + host + "Authorization: Bearer " + testPlaceholder + "\r\nConnection: close\r\n\r\n")
			if err != nil || res.StatusCode != 200 || got != strings.Repeat("x", 3000)+testPlaceholder {
				t.Errorf("%v: %d bytes ending in %q", err, len(got), got[max(0, len(got)-70):])
			}
		})
	}
}

// cork makes the kernel keep small segments back, or send them.
func cork(t testing.TB, c net.Conn, on int) {
	raw, err := c.(*tls.Conn).NetConn().(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, on) })
	if err != nil {
		t.Error(err)
	}
}
