package redis

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"sync"

	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/redact"
)

// bufferSize is the most of a command that is kept beyond the command, in bytes.
const bufferSize = 64 << 10

// defaultUser is whom a password without a user logs in.
const defaultUser = "default"

// link is one connection that carries data.
type link struct {
	ctx   context.Context
	ses   *login.Session
	forms *redact.Cache

	// What goes up.
	commands commands
	began    func() bool // ends the limit of the login
	open     bool        // that was done
	command  []byte      // a login as the server gets it

	// What comes down.
	answer []byte

	mu     sync.Mutex
	set    *redact.Set // every password that went up
	stream *redact.Stream
}

func newLink(ctx context.Context, ses *login.Session, forms *redact.Cache) *link {
	var none *redact.Set
	return &link{ctx: ctx, ses: ses, forms: forms, began: ses.Limit(), stream: none.Stream()}
}

// up passes on commands, and a login when it is what the server is to get.
func (l *link) up(p []byte, last bool) (out []byte, later func(), err error) {
	out, args, err := l.commands.next(p)
	if l.command != nil {
		out = append(l.command, out...)
		l.command = nil
	}
	if l.commands.seen && !l.open {
		l.began()
		l.open = true
	}
	if args == nil || last || err != nil {
		return out, nil, err
	}
	at, err := credential(args)
	if err != nil {
		return out, nil, err
	}
	return out, func() { l.command = l.login(args, at) }, nil
}

// down passes on answers without the passwords that went up.
func (l *link) down(p []byte, last bool) (out []byte, later func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if latest := l.forms.Latest(); latest != l.set { // another connection's, too
		l.set = latest
		l.stream.Widen(latest)
	}
	if !last && l.stream.Clean(p) {
		return p, nil, nil
	}
	l.answer = l.stream.Append(l.answer[:0], p)
	if last {
		l.answer = l.stream.Flush(l.answer)
	}
	return l.answer, nil, nil
}

// login returns AUTH or HELLO, with the real password if the client has shown a
// placeholder at an index.
func (l *link) login(args [][]byte, at int) []byte {
	if at == 0 {
		return appendCommand(nil, args)
	}
	real := l.exchange(args, at)
	if real == nil {
		// Recorded already. The server says what it says to a wrong password.
		args[at] = []byte(rand.Text())
		return appendCommand(nil, args)
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
	return appendCommand(nil, args)
}

// exchange returns the real password for the one at an index, nil when there is none
// to be had.
func (l *link) exchange(args [][]byte, at int) *login.Real {
	user := defaultUser
	if at > 1 {
		user = string(args[at-1])
	}
	key := l.find(user, args[at])
	if key == nil {
		_ = l.ses.Refuse(l.ses.Foreign()) // recorded or not, no key leaves
		return nil
	}
	real, err := l.ses.Use(l.ctx, key)
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
