package sandbox

import (
	"bytes"
	"strings"
	"testing"
)

func TestModesUndo(t *testing.T) {
	for _, tt := range []struct{ name, output, want string }{
		{"has nothing to do after plain text", "hello \x1b[31mred\x1b[0m\r\n", ""},
		{"has nothing to do after a tidy program", "\x1b[?1049h\x1b[?25lx\x1b[?25h\x1b[?1049l", ""},
		{"leaves the alternate screen", "\x1b[?1049h\x1b[2J", "\x1b[?1049l\x1b[m"},
		{"shows the cursor and stops mouse and paste", "\x1b[?25;1000;2004h\x1b[?25l", "\x1b[?25h\x1b[?1000l\x1b[?2004l\x1b[m"},
		{"takes back the keyboard, on its screen", "\x1b[?1049h\x1b[>1u\x1b[>5u\x1b[<u", "\x1b[<1u\x1b[?1049l\x1b[m"},
		{"takes back the keypad", "\x1b[?1h\x1b=", "\x1b>\x1b[?1l\x1b[m"},
		{"ends a sequence that was cut off", "\x1b[?10", "\x18"},
		{"knows a reset", "\x1b[?1049h\x1b=\x1bc", ""},
		{"passes over what is too long", "\x1b[?" + strings.Repeat("1;", 99) + "25l", ""},
		{"passes over other modes and no numbers", "\x1b[?12h\x1b[?xh\x1b[4h\x1b[?99999999999999999999h", ""},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			for _, step := range []int{len(tt.output), 1} {
				var out bytes.Buffer
				m := &modes{to: &out}
				for i := 0; i < len(tt.output); i += step {
					m.Write([]byte(tt.output[i : i+step]))
				}
				if out.String() != tt.output {
					t.Errorf("passed on %q, want %q", out.String(), tt.output)
				}
				if got := m.undo(); got != tt.want {
					t.Errorf("undo: got %q, want %q, output %q", got, tt.want, tt.output)
				}
				if again := m.undo(); again != "" {
					t.Errorf("undo again: %q", again)
				}
			}
		})
	}
}

// FuzzModes wants output to pass unchanged, and what undoes it to leave nothing to undo.
func FuzzModes(f *testing.F) {
	for _, s := range []string{"\x1b[?1049h", "\x1b[>1u\x1b=\x1b[?25l", "\x1b\x1b[[?1;h", "\x1b[?7l\x18", "\x1b[<9u\x1b[>u"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		var out bytes.Buffer
		m := &modes{to: &out}
		m.Write(p)
		if !bytes.Equal(out.Bytes(), p) {
			t.Fatalf("passed on %q, want %q", out.Bytes(), p)
		}
		m.Write([]byte(m.undo()))
		if len(m.changed) > 0 || m.keys > 0 || m.pad || m.alternate() {
			t.Errorf("after undo of %q: %v, %d, %v", p, m.changed, m.keys, m.pad)
		}
	})
}
