// Command work measures what people do in a sandbox, not what a sandbox does: git, npm, ripgrep, the Go compiler and
// small files, in `superserve run`, in gVisor alone with the same programs and the same folder, and on the host, taking
// turns. Start-up is left out: each task takes its own time inside. Of the rounds the best counts, for a machine that
// does other things besides only ever adds.
//
// A missed target is a line of the report, never a failure.
//
//	go run ./cli/e2e/bench/work [-rounds 3] [-files 20000] [-only WORDS]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// target is how much longer than in gVisor alone a task may take in superserve.
const target = 1.1

func main() {
	if err := bench(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "work:", err)
		os.Exit(1)
	}
}

func bench(args []string) error {
	set := flag.NewFlagSet("work", flag.ContinueOnError)
	rounds := set.Int("rounds", 3, "how often each task is done in each place")
	files := set.Int("files", 20000, "how many files the repository has")
	only := set.String("only", "", "do only the tasks whose name contains this")
	bin := set.String("bin", "bin/superserve", "the superserve to measure")
	if err := set.Parse(args); err != nil {
		return err
	}
	full, err := filepath.Abs(*bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "superserve-work-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	w := &workshop{ctx: ctx, bin: full, dir: dir, folder: filepath.Join(dir, "folder")}
	if err := w.furnish(*files); err != nil {
		return err
	}
	defer w.close()
	for _, t := range tasks() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if strings.Contains(t.name, *only) {
			w.compare(t, *rounds)
		}
	}
	return nil
}

// compare does one task in each place, round by round, and prints the best times and their ratios.
func (w *workshop) compare(t task, rounds int) {
	best := map[string]time.Duration{}
	for range rounds {
		for _, p := range w.places() {
			took, err := w.do(t, p)
			if err != nil {
				fmt.Printf("%-24s not measured: %s: %v\n", t.name, p.name, err)
				return
			}
			if b, ok := best[p.name]; !ok || took < b {
				best[p.name] = took
			}
		}
	}
	ours, alone, host := best[nameOurs], best[nameAlone], best[nameHost]
	ratio := float64(ours) / float64(alone)
	missed := ""
	if ratio > target {
		missed = fmt.Sprintf(", target ≤ %.2f× missed", target)
	}
	fmt.Printf("%-24s superserve %5d ms, runsc %5d ms, host %5d ms: %.2f× runsc, %.1f× the host%s\n", t.name,
		ours.Milliseconds(), alone.Milliseconds(), host.Milliseconds(), ratio, float64(ours)/float64(host), missed)
}
