package redis

import (
	"bytes"
	"strconv"

	"github.com/superserve/superserve/proxy/login"
)

// Limits of a command, as servers have them: PROTO_INLINE_MAX_SIZE and the number of
// arguments; a bulk's length is the server's to judge and only kept sane here.
const (
	maxInline = 12 << 10
	maxArgs   = 1 << 20
	maxBulk   = 1 << 40
	maxLine   = 20 // bytes of a type and a length
	// Of AUTH and HELLO, the commands that are held whole. Sizes in bytes.
	maxLoginArgs = 16
	maxLoginArg  = 64 << 10
)

// commands follows what a client sends. What is no login is passed on as it came,
// strictly framed: a length that a server reads otherwise would hide a login in a value.
type commands struct {
	kept   []byte // what is not passed on yet, behind what is
	passed int    // of kept
	bulks  int64  // of the current command that are still to come
	body   int64  // bytes of the current bulk that are, with the end of its line
	seen   bool   // a whole command
}

var errCommand = login.Malformed("the client's commands are malformed")

// next takes in p and returns what may be passed on; with it come the arguments of a
// login if one follows, which ends there: what is behind it comes with the next call.
// What is returned is p's or the commands' own, until then.
func (c *commands) next(p []byte) (pass []byte, args [][]byte, err error) {
	own := len(c.kept) > c.passed
	if c.kept = append(c.kept[:0], c.kept[c.passed:]...); own {
		c.kept = append(c.kept, p...)
		p = c.kept
	}
	n, held, args, err := c.scan(p)
	if c.passed = n + held; !own {
		c.kept, c.passed = append(c.kept, p[n+held:]...), 0
	}
	if len(c.kept) == c.passed && cap(c.kept) > bufferSize {
		c.kept, c.passed, p = nil, 0, p[:n:n]
	}
	return p[:n], args, err
}

// scan returns how many bytes of b may be passed on and, if a login follows them, its
// length and its arguments, copied.
func (c *commands) scan(b []byte) (n, held int, args [][]byte, err error) {
	for n < len(b) {
		rest, used := b[n:], 0
		switch {
		case c.body > 2 && c.body <= int64(len(rest)) && rest[c.body-2] == '\r' && rest[c.body-1] == '\n':
			used, c.body = int(c.body), 0
			c.seen = c.seen || c.bulks == 0
		case c.body > 2:
			used = int(min(c.body-2, int64(len(rest))))
			c.body -= int64(used)
		case c.body > 0:
			if rest[0] != "\n\r"[c.body-1] {
				return n, 0, nil, errCommand
			}
			used = 1
			c.body--
			c.seen = c.seen || c.body+c.bulks == 0
		case c.bulks > 0:
			var size int64
			if used, size, err = number(rest, '$', maxBulk); used > 0 {
				c.bulks, c.body = c.bulks-1, size+2
			}
		case rest[0] == '*':
			used, held, args, err = c.begin(rest)
		default:
			used, held, args, err = c.inline(rest)
		}
		if n += used; used == 0 || err != nil {
			return n, held, args, err
		}
	}
	return n, 0, nil, nil
}

// begin reads the beginning of a command up to its name, and all of a login.
func (c *commands) begin(b []byte) (used, held int, args [][]byte, err error) {
	used, bulks, err := number(b, '*', maxArgs)
	if used == 0 || bulks == 0 {
		c.seen = c.seen || used > 0
		return used, 0, nil, err
	}
	line, size, err := number(b[used:], '$', maxBulk)
	if line == 0 {
		return 0, 0, nil, err
	}
	if size == int64(len("AUTH")) || size == int64(len("HELLO")) {
		name := b[used+line:]
		if int64(len(name)) < size {
			return 0, 0, nil, nil
		}
		if logsIn(name[:size]) {
			held, args, err = hold(b, used, bulks)
			c.seen = c.seen || held > 0
			return 0, held, args, err
		}
	}
	c.bulks, c.body = bulks-1, size+2
	return used + line, 0, nil, nil
}

func logsIn(name []byte) bool {
	return bytes.EqualFold(name, []byte("AUTH")) || bytes.EqualFold(name, []byte("HELLO"))
}

// number reads a line of a type and a length in the only form that every server reads
// alike, and returns how long it is: 0 when its end has not come.
func number(b []byte, kind byte, most int64) (used int, n int64, err error) {
	if len(b) > 0 && b[0] != kind {
		return 0, 0, errCommand
	}
	if len(b) > 3 && b[1]-'0' <= 9 && b[2] == '\r' && b[3] == '\n' {
		return 4, int64(b[1] - '0'), nil // nearly all
	}
	for i := 1; i < len(b); i++ {
		switch d := b[i]; {
		case '0' <= d && d <= '9' && (n > 0 || i == 1) && i < maxLine:
			if n = n*10 + int64(d-'0'); n > most {
				return 0, 0, errCommand
			}
		case d == '\r' && i > 1 && i+1 < len(b) && b[i+1] == '\n':
			return i + 2, n, nil
		case d == '\r' && i > 1 && i+1 == len(b):
			return 0, 0, nil
		default:
			return 0, 0, errCommand
		}
	}
	return 0, 0, nil
}

// hold reads a login whole: its bulks begin at b[at:]. It returns its length, 0 when
// its end has not come.
func hold(b []byte, at int, bulks int64) (used int, args [][]byte, err error) {
	if bulks > maxLoginArgs {
		return 0, nil, errCommand
	}
	for range bulks {
		line, size, err := number(b[at:], '$', maxLoginArg)
		if line == 0 {
			return 0, nil, err
		}
		at += line
		end := at + int(size)
		if len(b) < end+2 {
			return 0, nil, nil
		}
		if b[end] != '\r' || b[end+1] != '\n' {
			return 0, nil, errCommand
		}
		args = append(args, bytes.Clone(b[at:end]))
		at = end + 2
	}
	return at, args, nil
}

// inline reads a command as people type it. Servers take quotes and escapes apart,
// which may hide a login; nobody needs them here.
func (c *commands) inline(b []byte) (used, held int, args [][]byte, err error) {
	end := bytes.IndexByte(b[:min(len(b), maxInline)], '\n')
	if end < 0 && len(b) >= maxInline {
		return 0, 0, nil, errCommand
	}
	if end < 0 {
		return 0, 0, nil, nil
	}
	text := bytes.TrimSuffix(b[:end], []byte{'\r'})
	for _, b := range text {
		if b < ' ' && b != '\t' || b == '"' || b == '\'' || b == '\\' {
			return 0, 0, nil, errCommand
		}
	}
	c.seen = true
	words := bytes.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(words) == 0 || !logsIn(words[0]) {
		return end + 1, 0, nil, nil
	}
	if len(words) > maxLoginArgs {
		return 0, 0, nil, errCommand
	}
	for i, w := range words {
		words[i] = bytes.Clone(w)
	}
	return 0, end + 1, words, nil
}

// credential returns the index of the password in a command that logs in, before
// which its user stands unless the index is 1; 0 when there is none. Two in one
// command are an error: which of them a server takes is anyone's guess.
func credential(args [][]byte) (int, error) {
	if bytes.EqualFold(args[0], []byte("AUTH")) {
		if len(args) == 2 || len(args) == 3 {
			return len(args) - 1, nil
		}
		return 0, nil
	}
	at := 0
	for i := 2; i < len(args); i++ { // HELLO version [AUTH user password] [SETNAME name]
		switch {
		case bytes.EqualFold(args[i], []byte("SETNAME")):
			i++
		case !bytes.EqualFold(args[i], []byte("AUTH")):
		case at > 0 || i+2 >= len(args):
			return 0, errCommand
		default:
			at = i + 2
			i = at
		}
	}
	return at, nil
}

// appendCommand appends a command in full.
func appendCommand(dst []byte, args [][]byte) []byte {
	number := func(kind byte, n int) {
		dst = append(strconv.AppendInt(append(dst, kind), int64(n), 10), "\r\n"...)
	}
	number('*', len(args))
	for _, a := range args {
		number('$', len(a))
		dst = append(append(dst, a...), "\r\n"...)
	}
	return dst
}
