package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// sample is what one measurement of one relay gave.
type sample struct {
	Count    int           // requests, connections or events
	Elapsed  time.Duration // by the client's clock
	P50, P99 time.Duration // latency of one
	CPU      time.Duration // of the relay, over all of them
}

func (s sample) rate() float64    { return float64(s.Count) / s.Elapsed.Seconds() }
func (s sample) each() float64    { return float64(s.CPU.Nanoseconds()) / 1000 / float64(s.Count) } // µs
func (s sample) latency() float64 { return float64(s.P50.Nanoseconds()) / 1000 }                    // µs

// client drives load through a relay on port for about d.
type client func(ctx context.Context, b *bench, r *relay, d time.Duration) (sample, error)

// wrkReport makes wrk print its results as four numbers.
const wrkReport = `done = function(s, l, r)
  io.write(string.format("RESULT %d %d %d %d %d\n", s.requests, s.duration, l:percentile(50), l:percentile(99),
    s.errors.status + s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout))
end`

// wrk returns a client of kept-alive HTTP/1.1 connections.
func wrk(connections int, path string, headers ...string) client {
	return func(ctx context.Context, b *bench, r *relay, d time.Duration) (sample, error) {
		script := filepath.Join(b.dir, "report.lua")
		if err := os.WriteFile(script, []byte(wrkReport), 0o644); err != nil {
			return sample{}, err
		}
		args := []string{"-t1", "-c", strconv.Itoa(connections), "-d", seconds(d), "-s", script, "-H", "Host: " + host, "-H", "Authorization: Bearer " + r.token}
		for _, h := range headers {
			args = append(args, "-H", h)
		}
		out, err := exec.CommandContext(ctx, "wrk", append(args, fmt.Sprintf("https://%s:%d%s", host, r.port, path))...).CombinedOutput()
		if err != nil {
			return sample{}, fmt.Errorf("wrk: %w: %s", err, out)
		}
		return readWrk(string(out))
	}
}

func seconds(d time.Duration) string { return strconv.Itoa(max(int(d.Seconds()), 1)) + "s" }

func readWrk(out string) (sample, error) {
	var s sample
	var elapsed, p50, p99, failed int64
	_, result, _ := strings.Cut(out, "RESULT ")
	if _, err := fmt.Sscan(result, &s.Count, &elapsed, &p50, &p99, &failed); err != nil {
		return s, fmt.Errorf("read wrk's result: %w: %s", err, out)
	}
	s.Elapsed, s.P50, s.P99 = time.Duration(elapsed)*time.Microsecond, time.Duration(p50)*time.Microsecond, time.Duration(p99)*time.Microsecond
	if s.Count == 0 || failed > int64(s.Count)/100 {
		return s, fmt.Errorf("%d of %d requests failed", failed, s.Count)
	}
	return s, nil
}

// h2load returns a client of HTTP/2.
func h2load(connections, streams int) client {
	return func(ctx context.Context, b *bench, r *relay, d time.Duration) (sample, error) {
		out, err := exec.CommandContext(ctx, "h2load", "-t1", "-c", strconv.Itoa(connections), "-m", strconv.Itoa(streams), "-D", strings.TrimSuffix(seconds(d), "s"),
			"--connect-to", addr(r.port), "-H", "Authorization: Bearer "+r.token, "https://"+host+"/v1/messages").CombinedOutput()
		if err != nil {
			return sample{}, fmt.Errorf("h2load: %w: %s", err, out)
		}
		return readH2load(string(out))
	}
}

var (
	h2Finished = regexp.MustCompile(`finished in ([0-9.]+m?s)`)
	h2Counts   = regexp.MustCompile(`(\d+) succeeded, (\d+) failed`)
	h2Latency  = regexp.MustCompile(`time for request: +\S+ +\S+ +(\S+)`)
)

// readH2load takes the mean latency for P50: h2load has no median.
func readH2load(out string) (sample, error) {
	finished, counts, latency := h2Finished.FindStringSubmatch(out), h2Counts.FindStringSubmatch(out), h2Latency.FindStringSubmatch(out)
	if finished == nil || counts == nil || latency == nil {
		return sample{}, fmt.Errorf("read h2load's result: %s", out)
	}
	elapsed, err1 := time.ParseDuration(finished[1])
	mean, err2 := time.ParseDuration(latency[1])
	n, err3 := strconv.Atoi(counts[1])
	failed, err4 := strconv.Atoi(counts[2])
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return sample{}, err
	}
	if n == 0 || failed > n/100 {
		return sample{}, fmt.Errorf("%d requests failed, %d succeeded", failed, n)
	}
	return sample{Count: n, Elapsed: elapsed, P50: mean, P99: mean}, nil
}

// role returns a client that is this program in another process. It prints its
// sample as JSON.
func role(name string, args ...string) client {
	return func(ctx context.Context, b *bench, r *relay, d time.Duration) (sample, error) {
		self, err := os.Executable()
		if err != nil {
			return sample{}, err
		}
		all := append([]string{name, "-addr", addr(r.port), "-token", r.token, "-time", d.String()}, args...)
		cmd := exec.CommandContext(ctx, self, all...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return sample{}, fmt.Errorf("%s: %w", name, err)
		}
		var s sample
		return s, json.Unmarshal(out, &s)
	}
}

// clientFlags are those of every client role.
type clientFlags struct {
	addr, token string
	time        time.Duration
	parallel    int
}

func parseClient(name string, args []string) (clientFlags, error) {
	var f clientFlags
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.StringVar(&f.addr, "addr", "", "address of the relay")
	set.StringVar(&f.token, "token", "", "bearer token to send")
	set.DurationVar(&f.time, "time", time.Second, "how long")
	set.IntVar(&f.parallel, "parallel", 1, "how many at once")
	return f, set.Parse(args)
}

// connectRole makes a connection a request, as a loop of curl does, and closes it
// cleanly after the answer.
func connectRole(args []string) error {
	f, err := parseClient("connect", args)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	start := time.Now()
	for range f.parallel {
		wg.Go(func() {
			for time.Since(start) < f.time {
				begin := time.Now()
				e := f.connectOnce()
				mu.Lock()
				took, err = append(took, time.Since(begin)), errors.Join(err, e)
				mu.Unlock()
				if e != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if err != nil {
		return err
	}
	return report(took, time.Since(start))
}

func (f *clientFlags) connectOnce() error {
	conn, err := f.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := f.get(conn, "/")
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func (f *clientFlags) dial() (net.Conn, error) {
	// The relays' certificates come from different authorities, and checking them
	// is the client's cost.
	return tls.Dial("tcp", f.addr, &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, CurvePreferences: []tls.CurveID{tls.X25519}})
}

func (f *clientFlags) get(conn net.Conn, path string) (*http.Response, error) {
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", path, host, f.token); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil && resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	return resp, err
}

// listenRole reads a stream of events and reports how long each was under way.
func listenRole(args []string) error {
	f, err := parseClient("listen", args)
	if err != nil {
		return err
	}
	conn, err := f.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := f.get(conn, "/events")
	if err != nil {
		return err
	}
	start := time.Now()
	var took []time.Duration
	lines := bufio.NewScanner(resp.Body)
	for time.Since(start) < f.time && lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		sent, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil {
			return err
		}
		took = append(took, time.Duration(time.Now().UnixNano()-sent))
	}
	return errors.Join(lines.Err(), report(took, time.Since(start)))
}

func report(took []time.Duration, elapsed time.Duration) error {
	if len(took) == 0 {
		return errors.New("nothing was measured")
	}
	slices.Sort(took)
	return json.NewEncoder(os.Stdout).Encode(sample{Count: len(took), Elapsed: elapsed, P50: took[len(took)/2], P99: took[len(took)*99/100]})
}

// originRole sends an event every five milliseconds, with the time in it.
func originRole(args []string) error {
	set := flag.NewFlagSet("origin", flag.ContinueOnError)
	cert := set.String("cert", "", "PEM file")
	priv := set.String("key", "", "PEM file")
	if err := set.Parse(args); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ready(ln)
	server := &http.Server{Handler: http.HandlerFunc(events), TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	return untilTerm(func(ctx context.Context) error {
		context.AfterFunc(ctx, func() { server.Close() })
		if err := server.ServeTLS(ln, *cert, *priv); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
}

func events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	flush := http.NewResponseController(w)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
			if _, err := fmt.Fprintf(w, "data: %d\n\n", time.Now().UnixNano()); err != nil {
				return
			}
			if flush.Flush() != nil {
				return
			}
		}
	}
}
