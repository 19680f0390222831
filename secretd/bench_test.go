package secretd

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/lease"
)

// leased returns a question and its answerer: a lease that asks the daemon each time.
func leased(b *testing.B) func() error {
	b.Helper()
	d, _, r := opened(b)
	reply, file, err := d.Grant(b.Context(), self(), api.GrantRequest{Agent: "a", Run: "bench", Secrets: []api.Wanted{{Name: "MY_KEY"}}})
	if err != nil {
		b.Fatal(err)
	}
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		b.Fatal(err)
	}
	l, err := lease.Open(conn, lease.Options{Lease: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	r.Placeholder = reply.Entries[0].Placeholder
	return func() error {
		_, err := l.Resolve(b.Context(), r)
		return err
	}
}

// echo returns a question to net/http's own server on a unix socket, which answers as
// many bytes and does nothing else.
func echo(b *testing.B, conns int) func() error {
	b.Helper()
	path := filepath.Join(b.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })}
	go func() { _ = srv.Serve(l) }()
	b.Cleanup(func() { srv.Close() })
	tr := &http.Transport{MaxIdleConnsPerHost: conns, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	b.Cleanup(tr.CloseIdleConnections)
	body := strings.Repeat("x", 100)
	return func() error {
		req, err := http.NewRequest(http.MethodPost, "http://echo/", strings.NewReader(body))
		if err != nil {
			return err
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
}

// BenchmarkResolveToEcho asks both in turns, so that what else the machine does hits
// both, and reports the ratio of their medians and throughputs: 1 is as fast as a bare
// echo by net/http over a unix socket, more is faster. Wanted is at least 0.7.
func BenchmarkResolveToEcho(b *testing.B) {
	const asking, each = 8, 250
	resolve, bare := leased(b), echo(b, asking)
	var took [2][]time.Duration
	var whole [2]time.Duration
	for b.Loop() {
		for i, ask := range []func() error{resolve, bare} {
			for range each {
				at := time.Now()
				if err := ask(); err != nil {
					b.Fatal(err)
				}
				took[i] = append(took[i], time.Since(at))
			}
			whole[i] += together(b, ask, asking, each)
		}
	}
	p50 := [2]time.Duration{median(took[0]), median(took[1])}
	b.ReportMetric(float64(p50[0].Nanoseconds())/1e3, "µs-p50")
	b.ReportMetric(float64(p50[1])/float64(p50[0]), "p50-ratio")
	b.ReportMetric(float64(b.N*asking*each)/whole[0].Seconds(), "resolves/s")
	b.ReportMetric(float64(whole[1])/float64(whole[0]), "throughput-ratio")
}

func together(b *testing.B, ask func() error, asking, each int) time.Duration {
	b.Helper()
	at := time.Now()
	var wait sync.WaitGroup
	for range asking {
		wait.Go(func() {
			for range each {
				if err := ask(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	return time.Since(at)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkSet stores one secret durably: audit line, store and anchor.
func BenchmarkSet(b *testing.B) {
	d, _, _ := opened(b)
	for b.Loop() {
		if _, err := d.Set(b.Context(), self(), "a", []api.Setting{{Name: "MY_KEY", Value: []byte("a-value-of-mine")}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHundredThousand opens a store of 100,000 secrets of 1,000 agents, and lists,
// sets and counts in it.
func BenchmarkHundredThousand(b *testing.B) {
	const agents, each = 1000, 100
	cfg := Config{State: b.TempDir()}
	d, err := Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	for a := range agents {
		settings := make([]api.Setting, each)
		for n := range settings {
			settings[n] = api.Setting{Name: fmt.Sprintf("KEY_%d", n), Value: fmt.Appendf(nil, "sk-ant-api03-%040d", n)}
		}
		if _, err := d.Set(b.Context(), self(), fmt.Sprintf("agent-%d", a), settings); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
	b.Run("open", func(b *testing.B) {
		var heap uint64
		for b.Loop() {
			d, err := Open(b.Context(), cfg)
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			heap = m.HeapAlloc
			if err := d.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		b.ReportMetric(float64(heap)/(1<<20), "MiB-heap")
	})
	if d, err = Open(b.Context(), cfg); err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	for name, do := range map[string]func() error{
		"list":   func() error { _, err := d.List(b.Context(), "agent-500"); return err },
		"health": func() error { _, err := d.Health(b.Context()); return err },
		"set": func() error {
			_, err := d.Set(b.Context(), self(), "agent-500", []api.Setting{{Name: "KEY_7", Value: []byte("a-value-of-mine")}})
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
