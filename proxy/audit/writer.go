package audit

import (
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// maxPath is how many bytes of a path are kept, and maxText of any other text, so
// that an agent cannot make a line longer than a few KiB.
const (
	maxPath = 1024
	maxText = 256
)

// Writer is a Recorder that writes one JSON object and a newline for each Event,
// with one Write. On a file that was opened with O_APPEND several processes may
// share it. The chain of keyed hashes is to wrap this writer's destination, which
// sees whole lines only.
type Writer struct {
	run, agent string
	now        func() time.Time

	mu   sync.Mutex // one Write at a time: an io.Writer need not be safe
	w    io.Writer
	line []byte
}

// NewWriter returns a Writer to w for events that name their own run and agent.
func NewWriter(w io.Writer) *Writer { return NewRunWriter(w, "", "") }

// NewRunWriter returns a Writer that fills in the run and the agent of each event
// that names none.
func NewRunWriter(w io.Writer, run, agent string) *Writer {
	return &Writer{w: w, run: run, agent: agent, now: time.Now}
}

// Record writes e. It returns the error of the write, or io.ErrShortWrite.
func (w *Writer) Record(e Event) error {
	w.fill(&e)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.line = e.appendJSON(w.line[:0])
	n, err := w.w.Write(w.line)
	if err == nil && n < len(w.line) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("write audit record: %w", err)
	}
	return nil
}

func (w *Writer) fill(e *Event) {
	if e.Time.IsZero() {
		e.Time = w.now()
	}
	if e.Run == "" {
		e.Run = w.run
	}
	if e.Agent == "" {
		e.Agent = w.agent
	}
}

// appendJSON is written by hand because it runs once per request and allocates
// nothing; encoding/json takes several times as long (BenchmarkRecord).
func (e *Event) appendJSON(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = e.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, '"')
	b = appendText(b, "run", e.Run, maxText)
	b = appendText(b, "agent", e.Agent, maxText)
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
	b = append(b, `,"ms":`...)
	b = strconv.AppendFloat(b, float64(e.Duration.Microseconds())/1000, 'f', -1, 64)
	return append(b, "}\n"...)
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
