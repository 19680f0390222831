// Command bench measures the proxy against what else could stand in its place, in
// one run on one machine, and prints ratios: a plain TCP splice, which does
// nothing, and nginx, which ends TLS and encrypts again with kept-alive
// connections on both sides. Every part is a process of its own, so that the CPU
// time of a relay is its own: the relay, the upstream (nginx again) and the client
// (wrk, h2load, or this program in another role). Databases are measured by their own
// benchmarks, against a direct connection and pgbouncer.
//
// A missed target is a line of the report, never a failure.
//
//	go run ./cli/e2e/bench [-time 2s] [-rounds 3] [-only WORDS] [-profile DIR]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// roles are the parts that this program plays in processes of its own.
func roles() map[string]func(args []string) error {
	return map[string]func([]string) error{
		"proxy": proxyRole, "splice": relaying("splice", splice), "wan": relaying("wan", wan), "origin": originRole, "connect": connectRole, "listen": listenRole,
	}
}

func main() {
	err := error(nil)
	if role := roles()[firstArg()]; role != nil {
		err = role(os.Args[2:])
	} else {
		err = coordinate(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func firstArg() string {
	if len(os.Args) < 2 {
		return ""
	}
	return os.Args[1]
}

// options of a run.
type options struct {
	seconds time.Duration
	rounds  int
	only    string
	profile string
	bin     string
}

func coordinate(args []string) error {
	var o options
	set := flag.NewFlagSet("bench", flag.ContinueOnError)
	set.DurationVar(&o.seconds, "time", 2*time.Second, "how long each measurement runs")
	set.IntVar(&o.rounds, "rounds", 3, "how often each is repeated, relays taking turns")
	set.StringVar(&o.only, "only", "", "run only the rows whose name contains this")
	set.StringVar(&o.profile, "profile", "", "leave CPU profiles of the proxy in this directory")
	set.StringVar(&o.bin, "bin", "bin/superserve", "the superserve whose start-up and memory are measured")
	if err := set.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "superserve-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{options: o, dir: dir, out: os.Stdout}
	defer b.stop()
	return b.run(ctx)
}

// wanted reports whether a row is to be run.
func (o options) wanted(name string) bool { return strings.Contains(name, o.only) }
