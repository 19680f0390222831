// Command secretd keeps the real keys of sandboxed agents. It answers on a unix socket,
// to root and the group superserve, and has no network but for a key source that has.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"go.uber.org/zap"

	"github.com/superserve/superserve/secretd"
	"github.com/superserve/superserve/secretd/ledger"
	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/tpm"
)

const usage = "usage: secretd [--state DIR] [--socket PATH] [--store STORE] [--key KEY] [--anchor PATH|tpm2[:DEVICE]] [--accept-rollback] " +
	"[--listen HOST:PORT --cert FILE --cert-key FILE --client-ca FILE --admin NAME…] | " +
	"secretd rekey [--state DIR] [--store STORE] [--key KEY] [--anchor …] --to KEY | " +
	"secretd backup [--state DIR] [--store STORE] [--key KEY] [--anchor …] --recipient AGE1… [--file FILE] | " +
	"secretd restore [--state DIR] [--key KEY] [--anchor …] --identity FILE [--file FILE] | secretd version"

// Exit codes.
const (
	exitError    = 1
	exitMistrust = 3 // the store was rolled back or changed from outside
	exitKey      = 4 // the key is not the store's
)

func main() {
	if err := calm(); err != nil {
		fmt.Fprintln(os.Stderr, "secretd:", err)
		os.Exit(exitError)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err == nil {
		return
	}
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	code := exitError
	switch {
	case ledger.Mistrust(err):
		code = exitMistrust
		text += ". If that is on purpose, start it once with --accept-rollback"
	case errors.Is(err, seal.ErrKey):
		code = exitKey
	}
	fmt.Fprintln(os.Stderr, "secretd:", text)
	os.Exit(code)
}

// options are the flags of every verb.
type options struct {
	state, socket, store, key, anchor string
	acceptRollback                    bool
	remote                            secretd.Remote
	to                                string   // of rekey
	file                              string   // of backup and restore; "-" is a pipe
	recipients                        []string // of backup
	identity                          string   // of restore
}

func run(ctx context.Context, args []string) error {
	verb, args := verbOf(args)
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Println(usage + "\n\n" + keyUsage + "\n\n" + storeUsage)
		return nil
	case err != nil:
		return fmt.Errorf("%w; %s", err, usage)
	case verb == "version":
		fmt.Println("secretd", version())
		return nil
	}
	if err := errors.Join(o.misplaced(verb), locked.Process()); err != nil {
		return err
	}
	log, err := zap.NewProduction() // JSON lines on standard error
	if err != nil {
		return err
	}
	cfg, err := o.config(log.Named("secretd"))
	if err != nil {
		return err
	}
	switch verb {
	case "rekey":
		return rekey(ctx, cfg, o)
	case "backup":
		return backup(ctx, cfg, o)
	case "restore":
		return restore(ctx, cfg, o)
	}
	return secretd.Run(ctx, cfg, o.socket)
}

// verbOf parts the verb from its flags; without one it is to serve.
func verbOf(args []string) (string, []string) {
	if len(args) > 0 && slices.Contains([]string{"rekey", "backup", "restore", "version"}, args[0]) {
		return args[0], args[1:]
	}
	return "serve", args
}

// misplaced names a flag that another verb's is.
func (o options) misplaced(verb string) error {
	for flag, f := range map[string]struct {
		given bool
		verbs string
	}{
		"--store":     {o.store != "", "serve rekey backup"},
		"--listen":    {o.remote.Address != "", "serve"},
		"--to":        {o.to != "", "rekey"},
		"--file":      {o.file != "", "backup restore"},
		"--recipient": {len(o.recipients) > 0, "backup"},
		"--identity":  {o.identity != "", "restore"},
	} {
		if f.given && !slices.Contains(strings.Fields(f.verbs), verb) {
			return fmt.Errorf("%s belongs to %s; %s", flag, strings.ReplaceAll(f.verbs, " ", " and "), usage)
		}
	}
	if r := o.remote; r.Address == "" && (r.Cert != "" || r.Key != "" || r.ClientCA != "" || len(r.Admins) > 0) {
		return fmt.Errorf("--cert, --cert-key, --client-ca and --admin belong to --listen; %s", usage)
	}
	return nil
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("secretd", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.state, "state", "/var/lib/superserve", "")
	flags.StringVar(&o.socket, "socket", "/run/superserve/secretd.sock", "")
	flags.StringVar(&o.store, "store", "", "")
	flags.StringVar(&o.key, "key", "", "")
	flags.StringVar(&o.to, "to", "", "")
	flags.StringVar(&o.file, "file", "", "")
	flags.StringVar(&o.identity, "identity", "", "")
	flags.Func("recipient", "", func(s string) error { o.recipients = append(o.recipients, s); return nil })
	flags.StringVar(&o.remote.Address, "listen", "", "")
	flags.StringVar(&o.remote.Cert, "cert", "", "")
	flags.StringVar(&o.remote.Key, "cert-key", "", "")
	flags.StringVar(&o.remote.ClientCA, "client-ca", "", "")
	flags.Func("admin", "", func(s string) error { o.remote.Admins = append(o.remote.Admins, s); return nil })
	flags.StringVar(&o.anchor, "anchor", "", "")
	flags.BoolVar(&o.acceptRollback, "accept-rollback", false, "")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	return o, nil
}

func version() string {
	info, _ := debug.ReadBuildInfo()
	return info.Main.Version
}

func (o options) keyFile() string { return filepath.Join(o.state, "secretd", "key") }

func (o options) config(log *zap.Logger) (secretd.Config, error) {
	cfg := secretd.Config{
		State: o.state, Build: version(), Log: log, KeySource: known,
		Anchor: o.anchor, AcceptRollback: o.acceptRollback, Remote: o.remote,
	}
	if device, ok := strings.CutPrefix(o.anchor, "tpm2"); ok && (device == "" || device[0] == ':') {
		cfg.Anchor, cfg.AnchorTPM = "", tpm.Counter{Device: tpm.Device}
		if device != "" {
			cfg.AnchorTPM = tpm.Counter{Device: device[1:]}
		}
	}
	shared, err := sharedStore(o.store)
	if err != nil {
		return cfg, err
	}
	if shared != nil {
		cfg.Shared, cfg.SharedParts = shared.records, shared.parts
	}
	if o.key == "" {
		return cfg, nil
	}
	cfg.Keys, err = source(o.key, o.keyFile())
	return cfg, err
}

// rekey changes where the key comes from, or the key itself.
func rekey(ctx context.Context, cfg secretd.Config, o options) error {
	if o.to == "" {
		return fmt.Errorf("rekey needs --to KEY; %s", usage)
	}
	to, err := source(o.to, o.keyFile())
	if err != nil {
		return err
	}
	n, err := secretd.Rekey(ctx, cfg, to)
	if err != nil {
		return err
	}
	fmt.Printf("sealed %d records anew; the key comes from: %s\n", n, to.Kind())
	return nil
}
