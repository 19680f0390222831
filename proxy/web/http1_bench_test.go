package web

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"testing"
	"time"
)

// BenchmarkExchange is one small kept-alive request through TLS on both sides,
// with a client and an upstream that allocate nothing: allocs/op are ours and
// those of crypto/tls.
func BenchmarkExchange(b *testing.B) {
	for name, head := range map[string]string{"plain": get + host + "User-Agent: x\r\nAccept: */*\r\n\r\n", "key": get + host + auth + end} {
		b.Run(name, func(b *testing.B) {
			rig := newH1Rig(b)
			answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\nok")
			rig.script(func(c net.Conn, _ *bufio.Reader) {
				buf := make([]byte, 4096)
				for n, err := 0, error(nil); err == nil; n, err = c.Read(buf) {
					if n > 0 {
						c.Write(answer)
					}
				}
			})
			c := rig.dial()
			c.SetDeadline(time.Time{})
			request, buf := []byte(head), make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				c.Write(request)
				if n, err := c.Read(buf); err != nil || !bytes.HasSuffix(buf[:n], []byte("ok")) {
					b.Fatalf("got %q %v", buf[:n], err)
				}
			}
		})
	}
}

// BenchmarkEvents is the time from an upstream's writing an event to the client's
// having it, less that through a plain copy between two sockets: what looking
// into a stream adds.
func BenchmarkEvents(b *testing.B) {
	rig := newH1Rig(b)
	sent := make(chan time.Time, 1)
	next := make(chan struct{})
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		flush := http.NewResponseController(w).Flush
		flush()
		for {
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
			sent <- time.Now()
			fmt.Fprintf(w, "data: {\"delta\":\"some words of an answer\"}\n\n")
			flush()
		}
	})
	splice := listen(b)
	defer splice.Close()
	go spliceAll(splice, rig.upstream.Addr().String())
	measure := func(addr string, cfg *tls.Config) time.Duration {
		c, err := tls.Dial("tcp", addr, cfg)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, get+host+auth+end)
		r := bufio.NewReader(c)
		if _, err := readHead(r); err != nil {
			b.Fatal(err)
		}
		delays := make([]time.Duration, 0, 2000)
		for range cap(delays) {
			next <- struct{}{}
			start := <-sent
			for blank := 0; blank < 2; { // the event's empty line, and the chunk's end
				line, err := r.ReadSlice('\n')
				if err != nil {
					b.Fatal(err)
				}
				if len(line) <= 2 {
					blank++
				}
			}
			delays = append(delays, time.Since(start))
			time.Sleep(200 * time.Microsecond) // so that everybody sleeps, as between real events
		}
		slices.Sort(delays)
		return delays[len(delays)/2]
	}
	for range b.N {
		ours := measure(rig.front.Addr().String(), rig.clientConfig())
		cfg := rig.dialer.config.Clone()
		cfg.ServerName = testHost
		plain := measure(splice.Addr().String(), cfg)
		b.ReportMetric(float64(ours.Microseconds()), "ours-p50-µs")
		b.ReportMetric(float64(plain.Microseconds()), "splice-p50-µs")
		b.ReportMetric(float64((ours - plain).Microseconds()), "added-p50-µs")
		b.ReportMetric(0, "ns/op")
	}
}

func spliceAll(l net.Listener, to string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", to)
		if err != nil {
			c.Close()
			continue
		}
		go func() { io.Copy(up, c); up.Close() }()
		go func() { io.Copy(c, up); c.Close() }()
	}
}

// BenchmarkIdle is the memory of a connection that waits between two requests:
// both ends of both TLS connections run in this process, so ours is about half.
func BenchmarkIdle(b *testing.B) {
	const conns = 500
	rig := newH1Rig(b)
	rig.script(serveRaw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	for range b.N {
		before := inUse()
		all := make([]*tls.Conn, conns)
		for i := range all {
			all[i] = rig.dial()
			io.WriteString(all[i], get+host+end)
			io.ReadFull(all[i], make([]byte, 40))
		}
		b.ReportMetric(float64(inUse()-before)/conns/1024, "KiB/conn")
		for _, c := range all {
			c.Close()
		}
	}
}

func inUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
