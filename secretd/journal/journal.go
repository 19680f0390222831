// Package journal keeps an append-only file of lines in which a change, a cut or a
// reorder shows, although the process that writes it is not trusted for ever.
//
// Every line is a JSON object that ends in its number and a tag. The tag is made
// with a key that exists for one line only: the key of the next line is computed
// from this line and its key, by a function that cannot be turned round. So whoever
// breaks into the writer gets the key of lines to come, and can change none that
// were written before (Bellare and Yee, Forward integrity for secure audit logs,
// 1997). The first key is derived from a master key that the writer never sees.
//
// Beside the logs lies a list of seals. A seal is made by the process that started
// the writer, from what it reads in the file itself, and signed with a key that the
// writer never sees either: this log had so many lines and bytes, with this digest.
// A cut shows by the count.
//
// What was acknowledged survives the death of any process, also by SIGKILL, at the
// price of a copy: a line first goes into a file that is mapped into memory, the
// tail, and from there with many others into the log. It does not survive a power
// cut within the time between two seals.
package journal

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"strconv"
)

// KeySize is the length of the key of a chain, in bytes.
const KeySize = 16

// MaxLine is the longest line of a log, in bytes, with its end.
const MaxLine = 60 << 10

const (
	tagBytes = 16 // a forger has one try a line, and is seen when it fails
	seqField = `,"seq":`
	tagField = `,"tag":"`
	lineEnd  = "\"}\n"
	tailSize = len(tagField) + 2*tagBytes + len(lineEnd)
)

// chain makes tags. It is not safe for concurrent use.
type chain struct {
	seq uint64
	key [KeySize]byte
	// buf is the inner message of the HMAC of the next line: a block of key, then
	// the line. It is kept so that a line costs no allocation.
	buf []byte
}

const block = sha256.BlockSize

// next takes a JSON object, numbers and tags it, and moves on to the next key. The
// line it returns is valid until the next call.
//
// One half of HMAC-SHA-256(key, line) is the tag, the other the next key: neither says
// anything of the other, nor of the key. HMAC is written out here because crypto/hmac
// allocates for each new key. A further hash for the next key cost 0.1 µs a line.
func (c *chain) next(object []byte) ([]byte, error) {
	if len(object) < 2 || object[0] != '{' || object[len(object)-1] != '}' || bytes.IndexByte(object, '\n') >= 0 {
		return nil, errors.New("not a JSON object in one line")
	}
	if len(object) > MaxLine-128 {
		return nil, errors.New("the line is too long")
	}
	c.seq++
	b := c.pad(0x36)
	b = append(b, object[:len(object)-1]...)
	b = append(b, seqField...)
	b = strconv.AppendUint(b, c.seq, 10)
	tag := c.turn(b)
	b = append(b, tagField...)
	b = hex.AppendEncode(b, tag[:])
	c.buf = append(b, lineEnd...)
	return c.buf[block:], nil
}

// check reports whether line is the next one, and moves on if it is.
func (c *chain) check(line []byte) bool {
	body, tag, ok := split(line)
	if !ok {
		return false
	}
	was := c.key
	want := c.turn(append(c.pad(0x36), body...))
	if subtle.ConstantTimeCompare(want[:], tag) != 1 {
		c.key = was
		return false
	}
	c.seq++
	return true
}

// pad begins an HMAC: the key, in a block, mixed with the byte.
func (c *chain) pad(with byte) []byte {
	if c.buf == nil {
		c.buf = make([]byte, 0, 1024)
	}
	b := c.buf[:block]
	for i := range b {
		b[i] = with
	}
	subtle.XORBytes(b, b, c.key[:])
	return b
}

// turn ends the HMAC of inner, a block of key and a message, and replaces the key.
func (c *chain) turn(inner []byte) (tag [tagBytes]byte) {
	var outer [block + sha256.Size]byte
	for i := range block {
		outer[i] = 0x5c
	}
	subtle.XORBytes(outer[:], outer[:block], c.key[:])
	digest := sha256.Sum256(inner)
	copy(outer[block:], digest[:])
	digest = sha256.Sum256(outer[:])
	clear(inner[:block]) // the only copy of the old key
	copy(tag[:], digest[:tagBytes])
	copy(c.key[:], digest[tagBytes:])
	return tag
}

// split parts a line into what its tag is about and the tag. It looks at the form of
// the end only.
func split(line []byte) (body, tag []byte, ok bool) {
	at := len(line) - tailSize
	if at < 2 || string(line[at:at+len(tagField)]) != tagField || string(line[len(line)-len(lineEnd):]) != lineEnd {
		return nil, nil, false
	}
	tag, err := hex.DecodeString(string(line[at+len(tagField) : len(line)-len(lineEnd)]))
	return line[:at], tag, err == nil
}

// number returns the number that a line says it has. ok is false for what is no line
// of a journal.
func number(line []byte) (n uint64, ok bool) {
	body, _, ok := split(line)
	if !ok {
		return 0, false
	}
	at := bytes.LastIndex(body, []byte(seqField))
	if at < 0 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(body[at+len(seqField):]), 10, 64)
	return n, err == nil
}
