package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// bench is one run of the benchmark.
type bench struct {
	options
	dir      string
	out      io.Writer
	children []*child
	relays   []*relay // in front of the static upstream
	streams  []*relay // in front of the origin of events
	missed   []string
}

// relay is one of the three that are compared.
type relay struct {
	*child
	name  string
	token string // what a client must send for the upstream to see the key; "" when its place knows
	place place  // where its clients run; nil is the host
}

// The names of the relays, in the order of a table.
const (
	nameSplice = "splice"
	nameNginx  = "nginx"
	nameOurs   = "superserve"
)

// row is one kind of load.
type row struct {
	name    string
	client  client
	streams bool
	// judge compares; samples are by relay, one a round.
	judge func(b *bench, samples map[string][]sample)
}

func rows() []row {
	return []row{
		{name: "HTTP/1.1, small, kept alive, 1 connection", client: wrk(1, "/v1/messages"), judge: cpuTarget(1.3)},
		{name: "HTTP/1.1, small, kept alive, 16 connections", client: wrk(16, "/v1/messages"), judge: cpuTarget(1.3)},
		{name: "HTTP/2, small, 1 connection, 1 stream", client: h2load(1, 1), judge: cpuTarget(1.3)},
		{name: "HTTP/2, small, 4 connections, 8 streams each", client: h2load(4, 8), judge: cpuTarget(1.3)},
		{name: "new connections, client closes", client: role("connect", "-parallel", "4"), judge: rateTarget(0.95)},
		{name: "new connections, Connection: close", client: wrk(4, "/v1/messages", "Connection: close"), judge: rateTarget(0.95)},
		{name: "download of 64 MiB", client: wrk(1, "/big"), judge: rateTarget(0.9)},
		{name: "SSE, an event every 5 ms", client: role("listen"), streams: true, judge: delayTarget(100 * time.Microsecond)},
	}
}

func (b *bench) run(ctx context.Context) error {
	if err := b.setUp(ctx); err != nil {
		return err
	}
	b.printRSS("idle", 25<<20)
	for _, r := range rows() {
		if !b.wanted(r.name) {
			continue
		}
		if err := b.runRow(ctx, r); err != nil {
			// One relay that cannot do one kind of load must not hide the rest.
			fmt.Fprintf(b.out, "%s\n  not measured: %v\n\n", r.name, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	b.printRSS("after the load", 0)
	b.databases(ctx)
	b.startUp(ctx)
	b.idleRun(ctx)
	b.summary()
	return nil
}

// setUp starts two upstreams and three relays in front of each.
func (b *bench) setUp(ctx context.Context) error {
	if err := b.certificates(); err != nil {
		return err
	}
	up, err := b.upstream(ctx)
	if err != nil {
		return err
	}
	origin, err := b.start("origin", "-cert", filepath.Join(b.dir, "leaf.pem"), "-key", filepath.Join(b.dir, "leaf.key"))
	if err != nil {
		return err
	}
	if b.relays, err = b.inFront(ctx, "web", up.port); err != nil {
		return err
	}
	b.streams, err = b.inFront(ctx, "events", origin.port)
	return err
}

func (b *bench) inFront(ctx context.Context, name string, upstream int) ([]*relay, error) {
	plain, err := b.start("splice", "-upstream", addr(upstream))
	if err != nil {
		return nil, err
	}
	ngx, err := b.relayNginx(ctx, "nginx-"+name, upstream)
	if err != nil {
		return nil, err
	}
	args := []string{"-upstream", addr(upstream), "-roots", filepath.Join(b.dir, "ca.pem"), "-audit", filepath.Join(b.dir, name+".audit")}
	if b.profile != "" {
		args = append(args, "-profile", filepath.Join(b.profile, name+".prof"))
	}
	ours, err := b.start("proxy", args...)
	if err != nil {
		return nil, err
	}
	return []*relay{{plain, nameSplice, key, nil}, {ngx, nameNginx, key, nil}, {ours, nameOurs, placeholder, nil}}, nil
}

// runRow lets the relays take turns, so that a machine that slows down slows all.
func (b *bench) runRow(ctx context.Context, r row) error {
	relays := b.relays
	if r.streams {
		relays = b.streams
	}
	samples := map[string][]sample{}
	for range b.rounds {
		for _, relay := range relays {
			s, err := b.measure(ctx, r, relay)
			if err != nil {
				return fmt.Errorf("%s: %w", relay.name, err)
			}
			samples[relay.name] = append(samples[relay.name], s)
		}
	}
	b.print(r, relays, samples)
	r.judge(b, samples)
	fmt.Fprintln(b.out)
	return nil
}

func (b *bench) measure(ctx context.Context, r row, relay *relay) (sample, error) {
	before, err := relay.cpu()
	if err != nil {
		return sample{}, err
	}
	s, err := r.client(ctx, b, relay, b.seconds)
	if err != nil {
		return sample{}, err
	}
	after, err := relay.cpu()
	s.CPU = after - before
	return s, err
}

func (b *bench) print(r row, relays []*relay, samples map[string][]sample) {
	fmt.Fprintln(b.out, r.name)
	w := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tCPU each\tp50\tp99\tper second\t")
	for _, relay := range relays {
		all := samples[relay.name]
		fmt.Fprintf(w, "%s\t%.1f µs\t%.0f µs\t%.0f µs\t%.0f\t\n", relay.name, median(all, sample.each), median(all, sample.latency),
			median(all, func(s sample) float64 { return float64(s.P99.Microseconds()) }), median(all, sample.rate))
	}
	_ = w.Flush()
}

// median of a quantity over the rounds.
func median(all []sample, of func(sample) float64) float64 {
	values := make([]float64, 0, len(all))
	for _, s := range all {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// ratio is the median of the rounds' own ratios, ours to nginx's.
func ratio(samples map[string][]sample, of func(sample) float64) float64 {
	var all []float64
	for i, ours := range samples[nameOurs] {
		all = append(all, of(ours)/of(samples[nameNginx][i]))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func cpuTarget(most float64) func(*bench, map[string][]sample) {
	return func(b *bench, samples map[string][]sample) {
		got := ratio(samples, sample.each)
		b.verdict("CPU a request", fmt.Sprintf("%.2f× nginx's", got), fmt.Sprintf("≤ %.2f×", most), got/most)
		fmt.Fprintf(b.out, "  p50 %.2f× nginx's, %.2f× the splice's; throughput %.2f× nginx's\n", ratio(samples, sample.latency),
			median(samples[nameOurs], sample.latency)/median(samples[nameSplice], sample.latency), ratio(samples, sample.rate))
	}
}

func rateTarget(least float64) func(*bench, map[string][]sample) {
	return func(b *bench, samples map[string][]sample) {
		got := ratio(samples, sample.rate)
		b.verdict("throughput", fmt.Sprintf("%.2f× nginx's", got), fmt.Sprintf("≥ %.2f×", least), least/got)
		fmt.Fprintf(b.out, "  CPU %.2f× nginx's; throughput %.2f× the splice's\n", ratio(samples, sample.each),
			median(samples[nameOurs], sample.rate)/median(samples[nameSplice], sample.rate))
	}
}

func delayTarget(most time.Duration) func(*bench, map[string][]sample) {
	return func(b *bench, samples map[string][]sample) {
		plain := median(samples[nameSplice], sample.latency)
		got := median(samples[nameOurs], sample.latency) - plain
		b.verdict("added delay p50 over the splice", fmt.Sprintf("%.0f µs", got), fmt.Sprintf("≤ %d µs", most.Microseconds()), got/float64(most.Microseconds()))
		fmt.Fprintf(b.out, "  nginx adds %.0f µs\n", median(samples[nameNginx], sample.latency)-plain)
	}
}

// verdict prints one comparison; by is the cost relative to the target.
func (b *bench) verdict(what, got, target string, by float64) {
	fmt.Fprintf(b.out, "  %s: %s (target %s)\n", what, got, target)
	if by > 1 {
		line := fmt.Sprintf("target missed by %.0f %%: %s is %s, target %s", 100*(by-1), what, got, target)
		fmt.Fprintln(b.out, " ", line)
		b.missed = append(b.missed, line)
	}
}

// printRSS prints the resident memory of ours and nginx; most is our target in
// bytes, 0 for none.
func (b *bench) printRSS(when string, most int64) {
	fmt.Fprintf(b.out, "memory %s\n", when)
	for _, r := range b.relays {
		n, err := r.rss()
		if err != nil {
			fmt.Fprintf(b.out, "  %s: not measured: %v\n", r.name, err)
			continue
		}
		fmt.Fprintf(b.out, "  %s: %.1f MiB\n", r.name, mib(n))
		if r.name == nameOurs && most > 0 {
			b.verdict("RSS of the proxy", fmt.Sprintf("%.1f MiB", mib(n)), fmt.Sprintf("≤ %.0f MiB", mib(most)), float64(n)/float64(most))
		}
	}
	fmt.Fprintln(b.out)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func (b *bench) summary() {
	if len(b.missed) == 0 {
		fmt.Fprintln(b.out, "every target that was measured is met")
		return
	}
	fmt.Fprintf(b.out, "%d target(s) missed:\n  %s\n", len(b.missed), strings.Join(b.missed, "\n  "))
}
