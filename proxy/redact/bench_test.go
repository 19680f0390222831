package redact

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
)

// forms50 returns needles of n bytes for a table of that shape.
func manyForms(count, n int) *Set {
	rng := rand.New(rand.NewPCG(1, 2))
	s := &Set{probes: new(atomic.Int32)}
	for range count {
		needle := make([]byte, n)
		for i := range needle {
			needle[i] = upperDigits[rng.IntN(16)] ^ byte(rng.IntN(2)<<5)
		}
		s.forms = append(s.forms, form{needle: needle, repl: bytes.Repeat([]byte("*"), n)})
	}
	s.index()
	return s
}

func benchText() []byte {
	line := []byte(`data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}` + "\n\n")
	return bytes.Repeat(line, 16<<10/len(line))
}

// BenchmarkScan compares a chunk of 16 KiB without a match in one run: a copy, a
// pass of bytes.Index a form, and a Stream.
func BenchmarkScan(b *testing.B) {
	text := benchText()
	dst := make([]byte, 0, 2*len(text))
	b.Run("memcpy", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			_ = append(dst, text...)
		}
	})
	for _, n := range []int{12, 20, 40, 100} {
		s := manyForms(50, n)
		b.Run(fmt.Sprintf("index/50 forms of %d", n), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				for i := range s.forms {
					bytes.Index(text, s.forms[i].needle)
				}
			}
		})
		st := s.Stream()
		b.Run(fmt.Sprintf("append/50 forms of %d", n), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				st.Append(dst, text)
			}
		})
		b.Run(fmt.Sprintf("clean/50 forms of %d", n), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				st.Clean(text)
			}
		})
	}
}

// BenchmarkKeys measures the real forms of one and of five keys.
func BenchmarkKeys(b *testing.B) {
	text := benchText()
	event := text[:96]
	dst := make([]byte, 0, 2*len(text))
	for _, count := range []int{1, 5} {
		var pairs []Pair
		for i := range count {
			pairs = append(pairs, pair(fmt.Sprintf("sk-ant-api03-%d_%040x", i, i*7919), "mARKeR01"))
		}
		s := New(pairs)
		st := s.Stream()
		b.Run(fmt.Sprintf("new/%d", count), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				New(pairs)
			}
		})
		b.Run(fmt.Sprintf("chunk/%d", count), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				st.Append(dst, text)
			}
		})
		b.Run(fmt.Sprintf("event/%d", count), func(b *testing.B) {
			b.SetBytes(int64(len(event)))
			for b.Loop() {
				st.Append(dst, event)
			}
		})
		b.Run(fmt.Sprintf("value/%d", count), func(b *testing.B) {
			for b.Loop() {
				s.Value(event[:40])
			}
		})
	}
}

// BenchmarkMessages undoes gzip of messages of text, as a stream of them.
func BenchmarkMessages(b *testing.B) {
	for _, size := range []int{100, 4 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			text := make([]byte, 0, size+64)
			for i := 0; len(text) < size; i++ {
				text = fmt.Appendf(text, "%d: a line that is like others, %x\n", i, i*i*7919)
			}
			wire := packedMessage(b, "gzip", text[:size])
			d, err := DecodeMessages("gzip", &repeated{p: wire})
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 16<<10)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				for left := messagePrefix + size; left > 0; {
					n, err := d.Read(buf)
					if err != nil {
						b.Fatal(err)
					}
					left -= n
				}
			}
		})
	}
}

// repeated reads p again and again.
type repeated struct {
	p  []byte
	at int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.p[r.at:])
	r.at = (r.at + n) % len(r.p)
	return n, nil
}
