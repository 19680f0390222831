package sandbox

import (
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// modes passes an agent's output on to a terminal and remembers what it switches on there, to switch it off after an
// agent that was ended before it could: else the user's shell is left with the mouse reported as text, without a cursor,
// or on the wrong screen. It is safe for concurrent use.
type modes struct {
	to io.Writer

	mu      sync.Mutex // guards what follows
	state   escape
	params  []byte       // of the sequence under way
	changed map[int]bool // private modes (DECSET) that are not as a terminal starts
	keys    int          // levels that were pushed of the kitty keyboard protocol
	pad     bool         // application keypad (DECKPAM)
}

// escape is how far into a control sequence the output is (ECMA-48 5.4).
type escape byte

const (
	plain escape = iota
	escaped
	sequence
	overlong
)

// maxParams is more than any sequence is long that sets a mode; a longer one is not looked at.
const maxParams = 64

// privateModes are those that programs forget, and how a terminal starts in each (xterm's ctlseqs): cursor keys, mouse
// (X10), autowrap, cursor, alternate screens, mouse reports of many kinds, focus reports, bracketed paste, in-band size
// reports, synchronised output, colour scheme reports.
var privateModes = map[int]bool{
	1: false, 7: true, 9: false, 25: true, 47: false, 1000: false, 1002: false, 1003: false, 1004: false, 1005: false,
	1006: false, 1015: false, 1016: false, 1047: false, 1049: false, 2004: false, 2026: false, 2031: false, 2048: false,
}

// Write passes p on unchanged.
func (m *modes) Write(p []byte) (int, error) {
	m.mu.Lock()
	for _, c := range p {
		m.take(c)
	}
	m.mu.Unlock()
	return m.to.Write(p)
}

func (m *modes) take(c byte) {
	switch {
	case c == 0x1b:
		m.state, m.params = escaped, m.params[:0]
	case m.state == plain:
	case c < 0x20: // carried out amid the sequence
	case m.state == escaped:
		m.state = plain
		switch c {
		case '[':
			m.state = sequence
		case 'c':
			m.changed, m.keys, m.pad = nil, 0, false
		case '=', '>':
			m.pad = c == '='
		}
	case c >= 0x40:
		if m.state == sequence {
			m.finish(c)
		}
		m.state = plain
	case len(m.params) == maxParams:
		m.state = overlong
	default:
		m.params = append(m.params, c)
	}
}

// finish takes a whole control sequence, by its last byte.
func (m *modes) finish(last byte) {
	text := string(m.params)
	if text == "" {
		return
	}
	switch {
	case text[0] == '?' && (last == 'h' || last == 'l'):
		for _, p := range strings.Split(text[1:], ";") {
			m.set(p, last == 'h')
		}
	case text[0] == '>' && last == 'u':
		m.keys = min(m.keys+1, maxParams)
	case text[0] == '<' && last == 'u':
		n, err := strconv.Atoi(text[1:])
		if err != nil {
			n = 1
		}
		m.keys = max(0, m.keys-max(n, 1))
	}
}

func (m *modes) set(param string, on bool) {
	mode, err := strconv.Atoi(param)
	first, known := privateModes[mode]
	switch {
	case err != nil || !known:
	case on == first:
		delete(m.changed, mode)
	default:
		if m.changed == nil {
			m.changed = make(map[int]bool)
		}
		m.changed[mode] = on
	}
}

// alternate reports whether the agent draws on the alternate screen.
func (m *modes) alternate() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed[47] || m.changed[1047] || m.changed[1049]
}

// undo returns what to write to the terminal so that it is as it was, and forgets. The screen comes last: the levels of
// the keyboard belong to the one that is shown.
func (m *modes) undo() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var b strings.Builder
	if m.state != plain {
		b.WriteByte(0x18) // CAN ends a sequence that was cut off
	}
	if m.keys > 0 {
		b.WriteString("\x1b[<" + strconv.Itoa(m.keys) + "u")
	}
	if m.pad {
		b.WriteString("\x1b>")
	}
	for _, mode := range slices.Sorted(maps.Keys(m.changed)) {
		end := "l"
		if privateModes[mode] {
			end = "h"
		}
		b.WriteString("\x1b[?" + strconv.Itoa(mode) + end)
	}
	if len(m.changed) > 0 {
		b.WriteString("\x1b[m")
	}
	m.state, m.changed, m.keys, m.pad = plain, nil, 0, false
	return b.String()
}
