package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"filippo.io/age"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/superserve/superserve/secretd"
	"github.com/superserve/superserve/secretd/private"
)

// maxIdentity is the longest file of identities that is read, in bytes.
const maxIdentity = 64 << 10

// backup writes the secrets, so that the recipients alone can read them.
func backup(ctx context.Context, cfg secretd.Config, o options) error {
	to, err := recipients(o.recipients)
	if err != nil {
		return err
	}
	out, done, err := create(cmp.Or(o.file, "-"))
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	n, err := secretd.Backup(ctx, cfg, out, to...)
	if err := done(err); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	fmt.Fprintf(os.Stderr, "backed up %d records of %s\n", n, o.state)
	return nil
}

func recipients(texts []string) ([]age.Recipient, error) {
	if len(texts) == 0 {
		return nil, fmt.Errorf("backup needs --recipient AGE1…: the public key that age-keygen prints; %s", usage)
	}
	var all []age.Recipient
	for _, text := range texts {
		r, err := age.ParseX25519Recipient(text)
		if err != nil {
			// The text may be an identity, which is a secret: it is not repeated.
			return nil, errors.New("backup: a --recipient is not a public key of age (age1…)")
		}
		all = append(all, r)
	}
	return all, nil
}

// create opens a new file that is there wholly or not at all, or standard output. done
// takes how the writing ended.
func create(path string) (w io.Writer, done func(error) error, err error) {
	if path == "-" {
		if term.IsTerminal(int(os.Stdout.Fd())) {
			return nil, nil, errors.New("it is not for a terminal: give --file FILE, or a pipe")
		}
		return os.Stdout, func(err error) error { return err }, nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return nil, nil, err
	}
	return f, func(err error) error {
		defer os.Remove(f.Name())
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
		return private.Publish(f.Name(), path)
	}, nil
}

// restore makes a store of a backup.
func restore(ctx context.Context, cfg secretd.Config, o options) error {
	from, err := identities(o.identity)
	if err != nil {
		return err
	}
	in := os.Stdin
	if path := cmp.Or(o.file, "-"); path != "-" {
		if in, err = os.Open(path); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		defer in.Close()
	}
	n, err := secretd.Restore(ctx, cfg, in, from...)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	fmt.Fprintf(os.Stderr, "restored %d records to %s\n", n, o.state)
	return nil
}

func identities(path string) ([]age.Identity, error) {
	if path == "" {
		return nil, fmt.Errorf("restore needs --identity FILE: the file that age-keygen wrote; %s", usage)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	defer f.Close()
	all, err := age.ParseIdentities(io.LimitReader(f, maxIdentity))
	if err != nil {
		return nil, fmt.Errorf("restore: %q holds no identity of age", path) // age's words can quote a line
	}
	return all, nil
}
