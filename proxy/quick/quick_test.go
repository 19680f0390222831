package quick

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy/proxytest"
)

// TestConn runs on real sockets: the point of the package is the kernel's answers.
func TestConn(t *testing.T) {
	t.Run("it moves bytes both ways, more than the socket holds", func(t *testing.T) {
		c, peer := pair(t)
		want := make([]byte, 16<<20)
		rand.Read(want)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := io.Copy(peer, io.LimitReader(peer, int64(len(want)))); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if n, err := c.Write(want); n != len(want) || err != nil {
				t.Errorf("wrote %d bytes, %v, want %d", n, err, len(want))
			}
		})
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("read back %d bytes, %v, equal %v", len(got), err, bytes.Equal(got, want))
		}
		wg.Wait()
	})

	t.Run("it keeps concurrent writes whole", func(t *testing.T) {
		c, peer := pair(t)
		const each, writers = 256 << 10, 4
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				if _, err := c.Write(bytes.Repeat([]byte{byte(i)}, each)); err != nil {
					t.Error(err)
				}
			})
		}
		got := make([]byte, each*writers)
		if _, err := io.ReadFull(peer, got); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		for i := range writers {
			if part := got[i*each : (i+1)*each]; bytes.Count(part, part[:1]) != each {
				t.Errorf("write %d is mixed with another", i)
			}
		}
	})

	t.Run("it reads the end as io.EOF", func(t *testing.T) {
		c, peer := pair(t)
		peer.Close()
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v, want 0, EOF", n, err)
		}
	})

	t.Run("it reads nothing into nothing", func(t *testing.T) {
		c, _ := pair(t)
		if n, err := c.Read(nil); n != 0 || err != nil {
			t.Errorf("read %d, %v, want 0, nil", n, err)
		}
		if n, err := c.Write(nil); n != 0 || err != nil {
			t.Errorf("wrote %d, %v, want 0, nil", n, err)
		}
	})

	t.Run("it fails at a deadline as net does", func(t *testing.T) {
		c, _ := pair(t)
		if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		_, err := c.Read(make([]byte, 1))
		check(t, err, "read", os.ErrDeadlineExceeded)
		if e := net.Error(nil); !errors.As(err, &e) || !e.Timeout() {
			t.Errorf("%v is no timeout", err)
		}
	})

	t.Run("it wakes when it is closed", func(t *testing.T) {
		c, _ := pair(t)
		failed := make(chan error)
		go func() {
			_, err := c.Read(make([]byte, 1))
			failed <- err
		}()
		c.Close()
		check(t, <-failed, "read", net.ErrClosed)
		_, err := c.Write([]byte("x"))
		check(t, err, "write", net.ErrClosed)
	})

	t.Run("it names the system call that failed", func(t *testing.T) {
		c, peer := pair(t)
		if err := peer.SetLinger(0); err != nil {
			t.Fatal(err)
		}
		peer.Close()
		_, err := c.Read(make([]byte, 1))
		check(t, err, "read", syscall.ECONNRESET)
		var call *os.SyscallError
		if !errors.As(err, &call) || call.Syscall != "read" {
			t.Errorf("%v does not say read(2)", err)
		}
		_, err = c.Write([]byte("x"))
		check(t, err, "write", syscall.EPIPE)
	})

	t.Run("it leaves other connections as they are", func(t *testing.T) {
		c, peer := net.Pipe()
		defer c.Close()
		defer peer.Close()
		if New(c) != c {
			t.Error("a pipe was wrapped")
		}
	})
}

func TestPending(t *testing.T) {
	c, peer := pair(t)
	if Pending(c) {
		t.Error("pending before anything came")
	}
	if _, err := peer.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	await(t, c, "a byte")
	if n, err := c.Read(make([]byte, 2)); n != 1 || err != nil {
		t.Fatalf("read %d, %v after a look, want the byte", n, err)
	}
	peer.Close()
	await(t, c, "the end")
	c.Close()
	if !Pending(c) {
		t.Error("nothing is pending on a closed connection, want its error")
	}
	if p, _ := net.Pipe(); Pending(p) {
		t.Error("pending on a pipe")
	}
}

// await waits until the kernel has what the peer sent.
func await(t *testing.T, c net.Conn, what string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !Pending(c); {
		if time.Now().After(end) {
			t.Fatalf("%s is not pending", what)
		}
	}
}

func TestAllocations(t *testing.T) {
	c, peer := pair(t)
	p := make([]byte, 64)
	n := testing.AllocsPerRun(100, func() {
		if _, err := peer.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(p); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(peer, p); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations an exchange, want none", n)
	}
}

func pair(t *testing.T) (net.Conn, *net.TCPConn) {
	t.Helper()
	c, peer := proxytest.Pair(t)
	q := New(c)
	if _, ok := q.(*Conn); !ok {
		t.Fatalf("%T was not wrapped", c)
	}
	return q, peer
}

func check(t *testing.T, err error, op string, cause error) {
	t.Helper()
	var e *net.OpError
	if !errors.As(err, &e) || e.Op != op || !errors.Is(err, cause) {
		t.Errorf("got %v, want a net.OpError of %s for %v", err, op, cause)
	}
}
