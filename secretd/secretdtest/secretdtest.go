// Package secretdtest starts real daemons for tests.
package secretdtest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/superserve/superserve/secretd"
	"github.com/superserve/superserve/secretd/client"
)

// Daemon is a running secretd in this process, on a socket of its own.
type Daemon struct {
	// Socket is the path of the admin socket.
	Socket string
	// Client calls the daemon.
	Client *client.Client
	// Dir is the state directory; the daemon's own files are in Dir/secretd.
	Dir string

	t      testing.TB
	cancel context.CancelFunc
	done   chan error
}

// Start starts a daemon with an empty store that ends with the test.
func Start(t testing.TB) *Daemon {
	t.Helper()
	// Not t.TempDir: the name of a test can make a socket's path too long.
	dir, err := os.MkdirTemp("", "secretd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &Daemon{Socket: filepath.Join(dir, "run", "secretd.sock"), Dir: dir, t: t}
	d.Client = client.New(d.Socket)
	d.start()
	t.Cleanup(d.Stop)
	return d
}

func (d *Daemon) start() {
	d.t.Helper()
	daemon, err := secretd.Open(context.Background(), secretd.Config{State: d.Dir, Build: "test"})
	if err != nil {
		d.t.Fatal(err)
	}
	sockets, err := secretd.Listen(d.Socket, secretd.Sockets{})
	if err != nil {
		daemon.Close()
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	d.cancel, d.done = cancel, done
	go func() {
		err := daemon.Serve(ctx, sockets)
		if closed := daemon.Close(); err == nil {
			err = closed
		}
		done <- err
	}()
}

// Stop ends the daemon and waits for it. Grants stay in its store.
func (d *Daemon) Stop() {
	d.t.Helper()
	if d.cancel == nil {
		return
	}
	d.cancel()
	d.cancel = nil
	if err := <-d.done; err != nil {
		d.t.Error(err)
	}
}

// Restart ends the daemon and starts another one on the same store and socket.
func (d *Daemon) Restart() {
	d.t.Helper()
	d.Stop()
	d.start()
}
