package client

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/superserve/superserve/secretd/api"
)

// TestGrantFromADyingDaemon has the other end reset the connection instead of answering,
// as a daemon that is killed with the request unread does.
func TestGrantFromADyingDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 20 {
		done := make(chan struct{})
		go func() {
			defer close(done)
			conn, err := l.Accept()
			if err == nil {
				var one [1]byte // the rest stays unread: close is ECONNRESET for the caller
				_, _ = conn.Read(one[:])
				conn.Close()
			}
		}()
		if _, file, err := New(path).Grant(context.Background(), api.GrantRequest{Agent: "a", Run: "r"}); err == nil {
			file.Close()
			t.Fatal("granted by nobody")
		}
		<-done
	}
}
