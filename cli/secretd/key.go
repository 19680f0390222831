package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"

	"golang.org/x/term"

	"github.com/superserve/superserve/secretd/locked"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/tpm"
)

const keyUsage = `KEY is where the store's key comes from:
  file[:PATH]              a file of mode 0600 (the default, beside the store)
  passphrase[:fd=N]        asked for on the terminal, or read from a descriptor
  credential[:NAME]        a systemd credential, "superserve.key"
  tpm2[:DEVICE][?pcrs=7]   this machine's TPM
  transit:https://HOST:PORT/MOUNT/NAME?token=FILE[&ca=FILE][&namespace=NS]
                           the transit engine of an OpenBao or Vault server`

// maxPhrase is the longest passphrase that is read, in bytes.
const maxPhrase = 1 << 10

// source parses a KEY. where is the file that "file" alone means.
func source(spec, where string) (seal.Source, error) {
	kind, rest, _ := strings.Cut(spec, ":")
	if at := strings.IndexByte(kind, '?'); at >= 0 {
		kind, rest = kind[:at], kind[at:]
	}
	switch kind {
	case "file":
		if rest == "" {
			rest = where
		}
		return seal.File{Path: rest}, nil
	case "passphrase":
		return passphrase(rest)
	case "credential":
		if rest == "" {
			rest = "superserve.key"
		}
		return seal.Credential{Dir: os.Getenv("CREDENTIALS_DIRECTORY"), Name: rest}, nil
	case "tpm2":
		return tpmKey(rest)
	case "transit":
		return transit(rest)
	}
	return nil, fmt.Errorf("unknown key source %q", kind)
}

// known returns the sources that a store can be opened by without being told: which one
// it is stands in the store. A server's address does not: who can write the store would
// get the token.
func known(kind string) (seal.Source, error) {
	if kind == "transit" {
		return nil, errors.New("the store's key is wrapped by a transit engine: say with --key where that is")
	}
	return source(kind, "")
}

func passphrase(rest string) (seal.Source, error) {
	if rest == "" {
		return seal.Passphrase{Ask: askTerminal}, nil
	}
	number, ok := strings.CutPrefix(rest, "fd=")
	fd, err := strconv.ParseUint(number, 10, 16)
	if !ok || err != nil {
		return nil, errors.New("key source passphrase: after the colon only fd=N may stand; a passphrase is never an argument")
	}
	return seal.Passphrase{Ask: func(context.Context, bool) ([]byte, error) { return readPhrase(uintptr(fd)) }}, nil
}

// readPhrase reads a descriptor up to the end of a line.
func readPhrase(fd uintptr) ([]byte, error) {
	f := os.NewFile(fd, "passphrase")
	if f == nil {
		return nil, fmt.Errorf("read passphrase: no descriptor %d", fd)
	}
	defer f.Close()
	p := make([]byte, maxPhrase+1)
	n, err := io.ReadFull(f, p)
	if err == nil {
		locked.Wipe(p)
		return nil, fmt.Errorf("read passphrase: it is longer than %d bytes", maxPhrase)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	phrase, _, _ := bytes.Cut(p[:n], []byte("\n"))
	return bytes.TrimSuffix(phrase, []byte("\r")), nil
}

// askTerminal asks on the terminal without echo, for a new passphrase twice.
func askTerminal(_ context.Context, fresh bool) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("ask for the passphrase: there is no terminal: %w", err)
	}
	defer tty.Close()
	question := "Passphrase of the secret store: "
	if fresh {
		question = "New passphrase of the secret store: "
	}
	phrase, err := askOn(tty, question)
	if err != nil || !fresh {
		return phrase, err
	}
	again, err := askOn(tty, "Once more: ")
	defer locked.Wipe(again)
	if err == nil && !bytes.Equal(phrase, again) {
		err = errors.New("ask for the passphrase: the two differ")
	}
	if err != nil {
		locked.Wipe(phrase)
		return nil, err
	}
	return phrase, nil
}

func askOn(tty *os.File, question string) ([]byte, error) {
	fmt.Fprint(tty, question)
	phrase, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	if err != nil {
		return nil, fmt.Errorf("ask for the passphrase: %w", err)
	}
	return phrase, nil
}

func tpmKey(rest string) (seal.Source, error) {
	device, query, _ := strings.Cut(rest, "?")
	if device == "" {
		device = tpm.Device
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("key source tpm2: what follows the ? is not pcrs=N,N")
	}
	k := tpm.Key{Device: device}
	for text := range strings.SplitSeq(values.Get("pcrs"), ",") {
		if text == "" {
			continue
		}
		pcr, err := strconv.ParseUint(text, 10, 8)
		if err != nil {
			return nil, fmt.Errorf("key source tpm2: %q is not a PCR", text)
		}
		k.PCRs = append(k.PCRs, uint(pcr))
	}
	return k, nil
}

func transit(rest string) (seal.Source, error) {
	u, err := url.Parse(rest)
	if err != nil || u.Host == "" {
		return nil, errors.New("key source transit: not https://HOST:PORT/MOUNT/NAME?token=FILE")
	}
	path := strings.Trim(u.Path, "/")
	at := strings.LastIndexByte(path, '/')
	if at < 1 {
		return nil, errors.New("key source transit: the path is not /MOUNT/NAME")
	}
	q := u.Query()
	return seal.Transit{
		Address: u.Scheme + "://" + u.Host, Mount: path[:at], Name: path[at+1:],
		TokenFile: q.Get("token"), CAFile: q.Get("ca"), Namespace: q.Get("namespace"),
	}, nil
}
