package redact

import (
	"bytes"
	"io"
	"testing"
)

// TestDecodersTakeTurns: beyond maxWide a decoder waits until another one is let go of, by its end or its owner.
func TestDecodersTakeTurns(t *testing.T) {
	for _, coding := range []string{"br", "zstd"} {
		data := compressed(t, coding, []byte("hello, hello, hello"))
		open := func() io.Reader {
			r, err := Decode(coding, bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			if n, err := r.Read(make([]byte, 1)); n != 1 || err != nil {
				t.Fatalf("%s: %d, %v", coding, n, err)
			}
			return r
		}
		var readers []io.Reader
		for range maxWide {
			readers = append(readers, open())
		}
		if len(wide) != maxWide {
			t.Fatalf("%s: %d tokens are taken, want %d", coding, len(wide), maxWide)
		}
		next := make(chan io.Reader)
		go func() { next <- open() }()
		select {
		case <-next:
			t.Fatalf("%s: one more did not wait", coding)
		default:
		}
		if rest, err := io.ReadAll(readers[0]); err != nil || string(rest) != "ello, hello, hello" {
			t.Errorf("%s: %q, %v", coding, rest, err)
		}
		readers[0] = <-next
		for _, r := range readers {
			r.(io.Closer).Close()
		}
		if len(wide) != 0 {
			t.Errorf("%s: %d tokens are left", coding, len(wide))
		}
	}
}
