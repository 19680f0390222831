package audit

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/superserve/superserve/secretd/journal"
)

// maxPath is how many bytes of a path are kept, and maxText of any other text, so
// that an agent cannot make a line longer than a few KiB.
const (
	maxPath = 1024
	maxText = 256
)

// Writer is a Recorder that makes one JSON object of each Event. It is safe for
// concurrent use.
type Writer struct {
	run, agent string
	own        []byte // what every line of this run says of run and agent
	now        func() time.Time
	buffers    sync.Pool // of *[]byte
	keep       func(object []byte) error
}

// NewWriter returns a Writer to w for events that name their own run and agent. Each
// is a line of its own, written with one Write.
func NewWriter(w io.Writer) *Writer { return NewRunWriter(w, "", "") }

// NewRunWriter returns a Writer to w that fills in the run and the agent of each
// event that names none.
func NewRunWriter(w io.Writer, run, agent string) *Writer {
	return newWriter((&plainLines{w: w}).keep, run, agent)
}

// NewJournalWriter returns a Writer that appends to a journal, which numbers and tags
// the lines and keeps them whatever happens to the process. The caller closes it.
func NewJournalWriter(l *journal.Log, run, agent string) *Writer {
	return newWriter(l.Append, run, agent)
}

func newWriter(keep func([]byte) error, run, agent string) *Writer {
	w := &Writer{run: run, agent: agent, now: time.Now, keep: keep}
	w.own = appendText(w.own, "run", run, maxText)
	w.own = appendText(w.own, "agent", agent, maxText)
	w.buffers.New = func() any { b := make([]byte, 0, 1024); return &b }
	return w
}

// Record keeps e. When it returns an error the event is not kept.
func (w *Writer) Record(e Event) error {
	if e.Time.IsZero() {
		e.Time = w.now()
	}
	b := w.buffers.Get().(*[]byte)
	defer w.buffers.Put(b)
	*b = e.appendJSON((*b)[:0], w)
	if err := w.keep(*b); err != nil {
		return fmt.Errorf("write audit record: %w", err)
	}
	return nil
}

// plainLines writes lines without a chain.
type plainLines struct {
	mu   sync.Mutex // one Write at a time: an io.Writer need not be safe
	w    io.Writer
	line []byte
}

func (p *plainLines) keep(object []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line = append(append(p.line[:0], object...), '\n')
	n, err := p.w.Write(p.line)
	if err == nil && n < len(p.line) {
		err = io.ErrShortWrite
	}
	return err
}

// appendJSON is written by hand because it runs twice per request and allocates
// nothing; encoding/json takes several times as long (BenchmarkRecord).
func (e *Event) appendJSON(b []byte, w *Writer) []byte {
	b = append(b, `{"time":"`...)
	b = appendTime(b, e.Time)
	b = append(b, '"')
	b = w.appendOwn(b, e)
	b = appendText(b, "kind", string(e.Kind), maxText)
	b = appendInt(b, "conn", int64(e.Conn))
	b = appendText(b, "protocol", e.Protocol, maxText)
	b = appendText(b, "name", e.Name, maxText)
	b = appendText(b, "addr", e.Addr, maxText)
	b = appendInt(b, "port", int64(e.Port))
	b = appendText(b, "verdict", string(e.Verdict), maxText)
	b = appendText(b, "rule", e.Rule, maxText)
	b = appendText(b, "reason", e.Reason, maxText)
	b = appendText(b, "secret", e.Secret, maxText)
	b = appendText(b, "method", e.Method, maxText)
	b = appendText(b, "path", e.Path, maxPath)
	b = appendInt(b, "status", int64(e.Status))
	b = appendInt(b, "sent", e.Sent)
	b = appendInt(b, "received", e.Received)
	if e.Kind == Usage {
		b = e.appendUsage(b)
	}
	b = append(b, `,"ms":`...)
	return append(appendMillis(b, e.Duration), '}')
}

func (e *Event) appendUsage(b []byte) []byte {
	b = appendText(b, "model", e.Model, maxText)
	b = appendInt(b, "tokens", e.Tokens)
	b = appendInt(b, "micros", e.Micros)
	if !e.Priced {
		b = append(b, `,"unpriced":true`...)
	}
	return b
}

// appendOwn writes the run and the agent, which are nearly always the Writer's.
func (w *Writer) appendOwn(b []byte, e *Event) []byte {
	if e.Run == "" && e.Agent == "" {
		return append(b, w.own...)
	}
	b = appendText(b, "run", cmp.Or(e.Run, w.run), maxText)
	return appendText(b, "agent", cmp.Or(e.Agent, w.agent), maxText)
}

// appendTime writes t in UTC with microseconds (RFC 3339). time.AppendFormat has no
// quick way for that layout and takes twice as long.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = append(appendDigits(b, year, 4), '-')
	b = append(appendDigits(b, int(month), 2), '-')
	b = append(appendDigits(b, day, 2), 'T')
	b = append(appendDigits(b, hour, 2), ':')
	b = append(appendDigits(b, minute, 2), ':')
	b = append(appendDigits(b, second, 2), '.')
	return append(appendDigits(b, t.Nanosecond()/1000, 6), 'Z')
}

// appendDigits writes the last n digits of v.
func appendDigits(b []byte, v, n int) []byte {
	b = append(b, "000000"[:n]...)
	for i := len(b) - 1; n > 0; i, n = i-1, n-1 {
		b[i] = byte('0' + v%10)
		v /= 10
	}
	return b
}

// appendMillis writes d in milliseconds with up to three decimals.
func appendMillis(b []byte, d time.Duration) []byte {
	us := d.Microseconds()
	if us < 0 {
		us = 0 // a clock that was set back
	}
	b = strconv.AppendInt(b, us/1000, 10)
	if us %= 1000; us == 0 {
		return b
	}
	b = appendDigits(append(b, '.'), int(us), 3)
	for b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	return b
}

func appendInt(b []byte, key string, v int64) []byte {
	if v == 0 {
		return b
	}
	b = append(append(append(b, `,"`...), key...), `":`...)
	return strconv.AppendInt(b, v, 10)
}

func appendText(b []byte, key, v string, most int) []byte {
	if v == "" {
		return b
	}
	b = append(append(append(b, `,"`...), key...), `":"`...)
	cut := len(v) > most
	if cut {
		v = v[:most]
	}
	b = appendEscaped(b, v)
	if cut {
		b = append(b, "…"...)
	}
	return append(b, '"')
}

// appendEscaped writes v as the inside of a JSON string (RFC 8259 §7). What is no
// UTF-8, and the separators that some readers take for line ends, are escaped too.
func appendEscaped(b []byte, v string) []byte {
	for i := 0; i < len(v); {
		if n := plain(v[i:]); n > 0 {
			b = append(b, v[i:i+n]...)
			i += n
			continue
		}
		r, size := utf8.DecodeRuneInString(v[i:])
		switch {
		case r == utf8.RuneError && size <= 1:
			b = append(b, `\ufffd`...)
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029':
			b = appendHex(b, uint16(r))
		default:
			b = append(b, v[i:i+size]...)
		}
		i += size
	}
	return b
}

// plain returns how many bytes at the beginning of v stand for themselves.
func plain(v string) int {
	for i := range len(v) {
		if c := v[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			return i
		}
	}
	return len(v)
}

func appendHex(b []byte, r uint16) []byte {
	const digits = "0123456789abcdef"
	return append(b, '\\', 'u', digits[r>>12], digits[r>>8&15], digits[r>>4&15], digits[r&15])
}
