package bpf

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// connectCost connects args[1] times to args[0], without reading, and says how many nanoseconds each took.
func connectCost(args []string) string {
	n, to := number(args[1]), netip.MustParseAddrPort(args[0])
	start := time.Now()
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err.Error()
		}
		if err := unix.Connect(fd, sockaddr(to)); err != nil {
			return err.Error()
		}
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // no TIME_WAIT
		unix.Close(fd)
	}
	return strconv.FormatInt(time.Since(start).Nanoseconds()/int64(n), 10)
}

// BenchmarkConnect compares socket, connect and close in the leaf with the same outside of it, to the same
// listener, in alternating rounds of one run. What counts is the ratio of the best rounds, as others disturb.
func BenchmarkConnect(b *testing.B) {
	w := newWorld(b)
	sink := w.serveSilently(b)
	if err := w.redirect.Close(); err != nil {
		b.Fatal(err)
	}
	w.config.Proxy4 = sink
	w.attach(b)
	const each = 2000
	hooked, unhooked := math.MaxInt, math.MaxInt // nanoseconds
	for b.Loop() {
		unhooked = min(unhooked, number(w.run(b, false, "cost", sink.String(), fmt.Sprint(each))))
		hooked = min(hooked, number(w.run(b, true, "cost", "192.0.2.1:443", fmt.Sprint(each))))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(hooked), "ns/hooked")
	b.ReportMetric(float64(unhooked), "ns/unhooked")
	b.ReportMetric(float64(hooked)/float64(unhooked), "ratio")
}

func (w *world) serveSilently(t testing.TB) netip.AddrPort {
	t.Helper()
	l := w.Listen("127.0.0.3:0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

func BenchmarkAttach(b *testing.B) {
	w := newWorld(b)
	for b.Loop() {
		r, err := Attach(w.config)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	w := newWorld(b)
	if got := w.run(b, true, "from", "127.0.0.1:40001", far4.String()); got != arrived(far4, far4) {
		b.Fatalf("connect: got %q", got)
	}
	d, client := w.destinations.Load(), ap("127.0.0.1:40001")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Lookup(client); err != nil {
			b.Fatal(err)
		}
	}
}
