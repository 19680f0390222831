package redact

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"slices"
	"testing"
	"testing/iotest"
)

// everything is a text with every spelling of a key in it.
func everything(key string) []byte {
	var text []byte
	all := spellings(key)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		text = append(append(append(text, name...), '='), all[name]...)
		text = append(text, '\n')
	}
	for offset := range 3 {
		text = append(append(text, base64.URLEncoding.EncodeToString([]byte("abc"[:offset]+key))...), '\n')
		text = append(append(text, base64.StdEncoding.EncodeToString([]byte("abc"[:offset]+key+"z"))...), '\n')
	}
	return append(append(text, base64.StdEncoding.EncodeToString([]byte("u:"+key))...), '\n')
}

// relay does what package web does with an answer: decode, redact, pass on, until an
// error comes, with which there may be data.
func relay(t *testing.T, s *Set, coding string, in io.Reader, size int) []byte {
	t.Helper()
	r, err := Decode(coding, in)
	if err != nil {
		t.Fatal(err)
	}
	if c, ok := r.(io.Closer); ok {
		defer c.Close()
	}
	var out []byte
	st, buf := s.Stream(), make([]byte, size)
	for {
		n, err := r.Read(buf)
		out = st.Append(out, buf[:n])
		if errors.Is(err, io.EOF) {
			return st.Flush(out)
		}
		if err != nil {
			t.Fatalf("%s: %v", coding, err)
		}
	}
}

// TestEverythingEverywhere sends every spelling of a key in every coding, split at every
// offset, with the last data together with the end: no form is left, no byte lost.
func TestEverythingEverywhere(t *testing.T) {
	const key, fake = "sk_live_p@:/%+&=#\"<>~ x51Hq?", "sk_live_mARKeR01abcdefghijkl"
	s := New([]Pair{{Secret: secret(key), Placeholder: fake, Before: "u:"}})
	text := everything(key)
	want := trusting(s, text)
	check(t, s, text, want)
	if bytes.Equal(want, text) {
		t.Fatal("nothing was found")
	}
	wires := map[string][]byte{"": text, "gzip, br": compressed(t, "br", compressed(t, "gzip", text))}
	for coding, name := range compressions() {
		wires[name] = compressed(t, coding, text)
	}
	for coding, wire := range wires {
		step := max(1, len(wire)/400)
		for cut := 0; cut <= len(wire); cut += step {
			s.probes.Store(0)
			in := iotest.DataErrReader(io.MultiReader(bytes.NewReader(wire[:cut]), bytes.NewReader(wire[cut:])))
			if got := relay(t, s, coding, in, 1+cut%97); !bytes.Equal(got, want) {
				t.Fatalf("%q cut at %d: got %d bytes, want %d", coding, cut, len(got), len(want))
			}
		}
	}
	for cut := range text { // what was decoded is split at every offset, too
		s.probes.Store(0)
		if got := run(s, text[:cut], text[cut:]); !bytes.Equal(got, want) {
			t.Fatalf("cut at %d: another result", cut)
		}
	}
}
