// Command secretd keeps the real keys of sandboxed agents. It has no network: it
// answers on a unix socket, to root and the group superserve.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd"
	"github.com/superserve/superserve/secretd/locked"
)

const usage = "usage: secretd [--state DIR] [--socket PATH] | secretd version"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "secretd:", strings.ReplaceAll(err.Error(), "\n", "; "))
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	flags := flag.NewFlagSet("secretd", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	state := flags.String("state", "/var/lib/superserve", "")
	socket := flags.String("socket", "/run/superserve/secretd.sock", "")
	err := flags.Parse(os.Args[1:])
	info, _ := debug.ReadBuildInfo()
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Println(usage)
		return nil
	case err != nil:
		return fmt.Errorf("%w; %s", err, usage)
	case flags.NArg() == 1 && flags.Arg(0) == "version":
		fmt.Println("secretd", info.Main.Version)
		return nil
	case flags.NArg() > 0:
		return fmt.Errorf("unknown argument %q; %s", flags.Arg(0), usage)
	}
	if err := locked.Process(); err != nil {
		return err
	}
	log, err := zap.NewProduction() // JSON lines on standard error
	if err != nil {
		return err
	}
	return secretd.Run(ctx, secretd.Config{State: *state, Build: info.Main.Version, Log: log.Named("secretd")}, *socket)
}
