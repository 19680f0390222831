package main

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// wanDelay is how long a byte is under way in one direction, to which the kernel's
// timers add about a twentieth of a millisecond.
const wanDelay = 200 * time.Microsecond

// wan relays a connection with a delay, as a network does.
func wan(client, server *net.TCPConn) {
	go carry(server, client)
	carry(client, server)
}

// parcel is what was read at once.
type parcel struct {
	due  time.Time
	data []byte
}

// carry copies src to dst, each byte wanDelay after it came.
func carry(dst, src net.Conn) {
	way := make(chan parcel, 1024)
	go func() {
		defer close(way)
		buf := make([]byte, 64<<10)
		for {
			n, err := src.Read(buf)
			if n > 0 {
				way <- parcel{time.Now().Add(wanDelay), append([]byte(nil), buf[:n]...)}
			}
			if err != nil {
				return
			}
		}
	}()
	failed := false
	for p := range way {
		if left := time.Until(p.due); left > 0 {
			// The runtime's own timers round up to a millisecond when nothing else runs.
			wait := unix.NsecToTimespec(left.Nanoseconds())
			_ = unix.Nanosleep(&wait, nil) // a signal makes it shorter
		}
		if _, err := dst.Write(p.data); err != nil && !failed {
			failed = true
			src.Close() // ends the reader, whose parcels are let go
		}
	}
	dst.Close()
}
