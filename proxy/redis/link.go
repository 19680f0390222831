package redis

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"io"
	"net"
	"sync"

	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/redact"
)

// bufferSize is one TLS record, in bytes.
const bufferSize = 16 << 10

// defaultUser is whom a password without a user logs in.
const defaultUser = "default"

// link is one connection that carries data. up and down run beside each other.
type link struct {
	ses   *login.Session
	forms *redact.Cache

	mu     sync.Mutex
	set    *redact.Set // every password that went up
	stream *redact.Stream
}

func newLink(ses *login.Session, forms *redact.Cache) *link {
	var none *redact.Set
	return &link{ses: ses, forms: forms, stream: none.Stream()}
}

// counter counts what is written.
type counter struct {
	net.Conn
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.n += int64(n)
	return n, err
}

// source reads from the client and first lets go of what is complete: nobody waits
// for an answer to a command that is kept here.
type source struct {
	io.Reader
	out *bufio.Writer
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.out.Flush(); err != nil {
		return 0, err
	}
	return s.Reader.Read(p)
}

// up relays commands.
func (l *link) up(ctx context.Context) (int64, error) {
	to := &counter{Conn: l.ses.Upstream}
	out := bufio.NewWriterSize(to, bufferSize)
	commands := &commands{in: bufio.NewReaderSize(&source{l.ses.Client, out}, bufferSize), out: out}
	for first := true; ; first = false {
		args, err := commands.next()
		if err == nil && first {
			err = l.ses.Open()
		}
		if err == nil && args != nil {
			err = l.login(ctx, out, args)
		}
		if err != nil {
			_ = out.Flush() // the reason is err
			return to.n, login.End(l.ses.Upstream, err)
		}
	}
}

// down relays answers without the passwords that went up.
func (l *link) down() (int64, error) {
	in, out := make([]byte, bufferSize), make([]byte, 0, bufferSize)
	var total int64
	for {
		n, err := l.ses.Upstream.Read(in)
		out = l.redact(out[:0], in[:n], err != nil)
		if len(out) > 0 {
			w, failed := l.ses.Client.Write(out)
			total += int64(w)
			if failed != nil {
				return total, failed
			}
		}
		if err != nil {
			return total, login.End(l.ses.Client, err)
		}
	}
}

func (l *link) redact(dst, p []byte, last bool) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if latest := l.forms.Latest(); latest != l.set { // another connection's, too
		l.set = latest
		l.stream.Widen(latest)
	}
	dst = l.stream.Append(dst, p)
	if last {
		dst = l.stream.Flush(dst)
	}
	return dst
}

// login passes on AUTH or HELLO, with the real password if the client has shown a
// placeholder.
func (l *link) login(ctx context.Context, out *bufio.Writer, args [][]byte) error {
	at, err := credential(args)
	if err != nil {
		return err
	}
	if at == 0 {
		return writeCommand(out, args)
	}
	real := l.exchange(ctx, args, at)
	if real == nil {
		// Recorded already. The server says what it says to a wrong password.
		args[at] = []byte(rand.Text())
		return writeCommand(out, args)
	}
	defer real.Wipe()
	args[at] = real.Password
	switch {
	case real.User == "":
	case at > 1:
		args[at-1] = []byte(real.User)
	case real.User != defaultUser:
		args = [][]byte{args[0], []byte(real.User), real.Password}
	}
	return writeCommand(out, args)
}

// exchange returns the real password for the one at an index, nil when there is none
// to be had.
func (l *link) exchange(ctx context.Context, args [][]byte, at int) *login.Real {
	user := defaultUser
	if at > 1 {
		user = string(args[at-1])
	}
	key := l.find(user, args[at])
	if key == nil {
		_ = l.ses.Refuse(l.ses.Foreign()) // recorded or not, no key leaves
		return nil
	}
	real, err := l.ses.Use(ctx, key)
	if err != nil {
		return nil
	}
	l.cover(real, key)
	return real
}

// find returns the key that the client shows, comparing with all.
func (l *link) find(user string, password []byte) *login.Key {
	var found *login.Key
	for _, k := range l.ses.Keys() {
		same := subtle.ConstantTimeCompare([]byte(k.Password), password) == 1
		// In a URL no user means the default one; a bare password goes with any.
		if same && (k.User == user || k.User == "" && (k.Bare || user == defaultUser)) {
			found = k
		}
	}
	return found
}

// cover looks for the password in answers from now on.
func (l *link) cover(real *login.Real, key *login.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set = l.forms.With(l.set, []redact.Pair{{Secret: real.Secret(), Placeholder: key.Password}})
	l.stream.Widen(l.set)
}
