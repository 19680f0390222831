package redis

import (
	"bufio"
	"bytes"
	"io"
	"strconv"

	"github.com/superserve/superserve/proxy/login"
)

// Limits of a command, as servers have them: PROTO_INLINE_MAX_SIZE and the number of
// arguments; a bulk's length is the server's to judge and only kept sane here.
const (
	maxInline = 12 << 10 // below bufferSize
	maxArgs   = 1 << 20
	maxBulk   = 1 << 40
	// Of AUTH and HELLO, the commands that are held whole. Sizes in bytes.
	maxLoginArgs = 16
	maxLoginArg  = 64 << 10
)

// commands reads a client's commands. What is no login goes to out as it came, strictly
// framed: a length that a server reads otherwise would hide a login in a value.
type commands struct {
	in   *bufio.Reader
	out  *bufio.Writer
	head []byte // how the current command began
}

var errCommand = login.Malformed("the client's commands are malformed")

// next passes on one command, or returns the arguments of one that logs in.
func (c *commands) next() ([][]byte, error) {
	first, err := c.in.Peek(1)
	if err != nil {
		return nil, err
	}
	if first[0] != '*' {
		return c.inline()
	}
	line, n, err := c.number('*', maxArgs)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		_, err := c.out.Write(line)
		return nil, err
	}
	c.head = append(c.head[:0], line...)
	line, size, err := c.number('$', maxBulk)
	if err != nil {
		return nil, err
	}
	c.head = append(c.head, line...)
	if size == int64(len("AUTH")) || size == int64(len("HELLO")) {
		name, err := c.in.Peek(int(size))
		if err != nil {
			return nil, err
		}
		if logsIn(name) {
			return c.hold(size, n-1)
		}
	}
	return nil, c.pass(size, n-1)
}

func logsIn(name []byte) bool {
	return bytes.EqualFold(name, []byte("AUTH")) || bytes.EqualFold(name, []byte("HELLO"))
}

// number reads a line of a type and a length in the only form that every server reads
// alike. The line is the reader's.
func (c *commands) number(kind byte, most int64) (line []byte, n int64, err error) {
	line, err = c.in.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		return nil, 0, errCommand
	}
	if err != nil {
		return nil, 0, err
	}
	end := len(line) - 2
	if end < 2 || end > 20 || line[0] != kind || line[end] != '\r' || line[1] == '0' && end > 2 {
		return nil, 0, errCommand
	}
	for _, d := range line[1:end] {
		if d < '0' || d > '9' {
			return nil, 0, errCommand
		}
		n = n*10 + int64(d-'0')
		if n > most {
			return nil, 0, errCommand
		}
	}
	return line, n, nil
}

// pass writes the command's head, a bulk of size bytes that is next, and more bulks
// after it.
func (c *commands) pass(size, more int64) error {
	if _, err := c.out.Write(c.head); err != nil {
		return err
	}
	for {
		if err := c.copy(size); err != nil {
			return err
		}
		if more == 0 {
			return nil
		}
		more--
		line, n, err := c.number('$', maxBulk)
		if err != nil {
			return err
		}
		if _, err := c.out.Write(line); err != nil {
			return err
		}
		size = n
	}
}

// copy passes on size bytes and the end of a line.
func (c *commands) copy(size int64) error {
	for size > 0 {
		if _, err := c.in.Peek(1); err != nil {
			return err
		}
		part, _ := c.in.Peek(int(min(size, int64(c.in.Buffered())))) // it is there
		n, err := c.out.Write(part)
		_, _ = c.in.Discard(n) // as it is
		if err != nil {
			return err
		}
		size -= int64(n)
	}
	if err := c.lineEnd(); err != nil {
		return err
	}
	_, err := c.out.WriteString("\r\n")
	return err
}

func (c *commands) lineEnd() error {
	end, err := c.in.Peek(2)
	if err != nil {
		return err
	}
	if end[0] != '\r' || end[1] != '\n' {
		return errCommand
	}
	_, _ = c.in.Discard(2) // they are there
	return nil
}

// hold reads a login whole: a bulk of size bytes that is next, and more after it.
func (c *commands) hold(size, more int64) ([][]byte, error) {
	if more >= maxLoginArgs {
		return nil, errCommand
	}
	var args [][]byte
	for {
		if size > maxLoginArg {
			return nil, errCommand
		}
		arg := make([]byte, size)
		if _, err := io.ReadFull(c.in, arg); err != nil {
			return nil, err
		}
		if err := c.lineEnd(); err != nil {
			return nil, err
		}
		if args = append(args, arg); int64(len(args)) > more {
			return args, nil
		}
		var err error
		if _, size, err = c.number('$', maxBulk); err != nil {
			return nil, err
		}
	}
}

// inline reads a command as people type it. Servers take quotes and escapes apart,
// which may hide a login; nobody needs them here.
func (c *commands) inline() ([][]byte, error) {
	line, err := c.in.ReadSlice('\n')
	if err == bufio.ErrBufferFull || err == nil && len(line) > maxInline {
		return nil, errCommand
	}
	if err != nil {
		return nil, err
	}
	text := bytes.TrimSuffix(line[:len(line)-1], []byte{'\r'})
	for _, b := range text {
		if b < ' ' && b != '\t' || b == '"' || b == '\'' || b == '\\' {
			return nil, errCommand
		}
	}
	words := bytes.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' })
	if len(words) == 0 || !logsIn(words[0]) {
		_, err := c.out.Write(line)
		return nil, err
	}
	if len(words) > maxLoginArgs {
		return nil, errCommand
	}
	for i, w := range words {
		words[i] = bytes.Clone(w)
	}
	return words, nil
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

// writeCommand writes a command in full.
func writeCommand(out *bufio.Writer, args [][]byte) error {
	number := func(kind byte, n int) {
		_ = out.WriteByte(kind) // a bufio.Writer keeps its error
		_, _ = out.WriteString(strconv.Itoa(n))
		_, _ = out.WriteString("\r\n")
	}
	number('*', len(args))
	for _, a := range args {
		number('$', len(a))
		_, _ = out.Write(a)
		_, _ = out.WriteString("\r\n")
	}
	return out.Flush()
}
