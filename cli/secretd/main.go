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
	"syscall"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd"
	"github.com/superserve/superserve/secretd/locked"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "secretd:", err)
		os.Exit(1)
	}
}

const usage = "usage: secretd [--state DIR] [--socket PATH] | secretd version"

func run(ctx context.Context) error {
	flags := flag.NewFlagSet("secretd", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	state := flags.String("state", "/var/lib/superserve", "directory of the store")
	socket := flags.String("socket", "/run/superserve/secretd.sock", "path of the socket")
	if err := flags.Parse(os.Args[1:]); errors.Is(err, flag.ErrHelp) {
		fmt.Println(usage)
		return nil
	} else if err != nil {
		return fmt.Errorf("%w; %s", err, usage)
	}
	if flags.Arg(0) == "version" && flags.NArg() == 1 {
		fmt.Println("secretd", build())
		return nil
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; %s", flags.Arg(0), usage)
	}
	return serve(ctx, *state, *socket)
}

func serve(ctx context.Context, state, socket string) (err error) {
	if err := locked.Process(); err != nil {
		return err
	}
	log, err := zap.NewProduction() // JSON lines on standard error
	if err != nil {
		return err
	}
	inherited, err := secretd.Inherited()
	if err != nil {
		return err
	}
	d, err := secretd.Open(ctx, secretd.Config{State: state, Build: build(), Log: log.Named("secretd")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	sockets, err := secretd.Listen(socket, inherited)
	if err != nil {
		return err
	}
	log.Info("serving", zap.String("socket", socket))
	return d.Serve(ctx, sockets)
}

// build is the version of the module that this program was built from.
func build() string {
	info, _ := debug.ReadBuildInfo()
	return info.Main.Version
}
