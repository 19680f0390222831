package redact

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"slices"
)

// Stream redacts one body, or one direction of a connection, as it passes. It is
// not safe for concurrent use.
type Stream struct {
	set *Set
	// held is what was taken in and not given out: it may begin a form. cover is
	// what the first len(cover) bytes of it become, whatever follows, because an
	// earlier match reaches into them.
	held, cover []byte
	// gone is how many of the first bytes of held went out all the same (Release).
	gone int
	hits []hit
	// doubtful is true when held[doubt:] is so much of a form that it counts as a
	// guess until the rest follows (guess.go).
	doubtful bool
	doubt    int
	// telling is true when it is too much of one to be given out at the end of a message.
	telling bool
}

// hit is one occurrence of a form.
type hit struct {
	start int
	form  *form
}

// opening is the longest beginning of a form that the data ends in: from start
// to the end. form is nil when there is none, and start is then the end.
type opening struct {
	start int
	form  *form
}

// Stream returns a new Stream. s may be nil: nothing is changed then.
func (s *Set) Stream() *Stream { return &Stream{set: s} }

// Widen makes the stream search for what s covers from here on. Bytes that
// were given out already stay as they were, so call it before the secret leaves.
func (st *Stream) Widen(s *Set) { st.set = s }

// Held returns how many bytes are held back.
func (st *Stream) Held() int { return len(st.held) - st.gone }

// Append appends to dst what can be given out after p came in, and returns the
// extended slice. p is not changed and not kept; it must not overlap the free part
// of dst. Only the last bytes are held back, fewer than the longest form has, and
// only as long as they are the beginning of one: a stream of events that end in a
// newline is never delayed.
func (st *Stream) Append(dst, p []byte) []byte {
	if st.set.Empty() && len(st.held) == 0 {
		return append(dst, p...)
	}
	defer runtime.KeepAlive(st.set) // its keys lie in memory that is wiped with it
	in := p
	if len(st.held) > 0 {
		st.held = append(st.held, p...)
		in = st.held
	}
	open := st.guess(in, st.find(in))
	base := len(dst)
	dst = append(dst, in...)
	out := dst[base:]
	covered := st.replace(out, open.start)
	st.hold(in, out, open.start, covered)
	return st.without(dst, base, base+open.start)
}

// without returns dst[:end] without the bytes from base that went out before.
func (st *Stream) without(dst []byte, base, end int) []byte {
	if st.gone == 0 {
		return dst[:end]
	}
	n := min(st.gone, end-base)
	st.gone -= n
	return dst[:base+copy(dst[base:], dst[base+n:end])]
}

// Release gives out what is held back, as Append does, at the end of a message: whoever
// reads it may answer before the next one comes. What follows is searched as if it were
// held still, so that of a key at most three bytes are seen, and a quarter of a short one.
// As much of one as counts as a guess stays, and so does all once somebody guesses
// (guess.go).
func (st *Stream) Release(dst []byte) []byte {
	if st.Held() == 0 || st.telling || st.set.Probed() {
		return dst
	}
	base := len(dst)
	dst = append(dst, st.held[st.gone:]...)
	if st.gone < len(st.cover) {
		copy(dst[base:], st.cover[st.gone:])
	}
	st.gone = len(st.held)
	return dst
}

// Clean reports whether p, if it were the next to come in, would go out at once
// and unchanged: the caller may then pass on p itself instead of a copy.
func (st *Stream) Clean(p []byte) bool {
	if len(st.held) > 0 {
		return false
	}
	defer runtime.KeepAlive(st.set)
	open := st.find(p)
	return open.form == nil && len(st.hits) == 0 && !st.set.Probed()
}

// Flush ends the data: it appends to dst what is held back. The Stream can be used
// for other data afterwards.
//
// A key that the data breaks off in stays as it is: hiding beginnings would let an
// agent test guesses, one byte at a time, on any upstream that repeats what it is
// sent.
func (st *Stream) Flush(dst []byte) []byte {
	if len(st.held) == 0 {
		return dst
	}
	defer st.Drop()
	if st.Held() == 0 {
		return dst
	}
	defer runtime.KeepAlive(st.set)
	st.find(st.held)
	st.guess(st.held, opening{start: len(st.held)})
	base := len(dst)
	dst = append(dst, st.held...)
	st.replace(dst[base:], len(st.held))
	return st.without(dst, base, len(dst))
}

// Drop forgets what is held, and returns how many bytes of it were not given out. The
// Stream can be used for other data afterwards.
func (st *Stream) Drop() int {
	n := st.Held()
	if len(st.held) > 0 {
		clear(st.held[:cap(st.held)])
		st.held, st.cover, st.gone, st.doubtful = st.held[:0], st.cover[:0], 0, false
	}
	return n
}

// hold keeps in[from:] back. covered is how far out is settled.
func (st *Stream) hold(in, out []byte, from, covered int) {
	st.cover = st.cover[:0]
	if covered > from {
		st.cover = append(st.cover, out[from:covered]...)
	}
	// in may be held itself: append copies downwards.
	st.held = append(st.held[:0], in[from:]...)
}

// replace writes the replacements of the hits that begin before limit into out, a
// copy of what was searched, and returns how many bytes from its start are
// settled: overlapping matches are all hidden, and none uncovers another. Later
// hits are held back and will be found again.
func (st *Stream) replace(out []byte, limit int) int {
	covered := copy(out, st.cover)
	for _, h := range st.hits {
		if h.start >= limit {
			break
		}
		covered = put(out, h.start, h.form.repl, covered)
	}
	return covered
}

// put writes repl at start. Where earlier matches cover the beginning, the rest
// is masked: the tail of a placeholder would say nothing.
func put(out []byte, start int, repl []byte, covered int) int {
	end := start + len(repl)
	if start >= covered {
		copy(out[start:], repl)
		return end
	}
	for i := covered; i < end; i++ {
		out[i] = '*'
	}
	return max(covered, end)
}

// find fills st.hits with the occurrences in p, by start and the longest first,
// and returns the longest opening at the end of p.
func (st *Stream) find(p []byte) opening {
	st.hits = st.hits[:0]
	open := opening{start: len(p)}
	if st.set.Empty() {
		return open
	}
	open = st.findIn(st.set, p, open)
	if more := st.set.more; more != nil {
		open = st.findIn(more, p, open)
		slices.SortStableFunc(st.hits, byStart)
	}
	return open
}

func (st *Stream) findIn(s *Set, p []byte, open opening) opening {
	if t := &s.table; t.step > 0 {
		for i := t.look(p, 0); i >= 0; i = t.look(p, i+t.step) {
			open = st.compare(s, p, i, open)
		}
	}
	if s.short {
		st.findShort(s, p)
	}
	return s.openingAt(p, open)
}

// compare looks up the word at i, which passed the filter, and compares every
// form that has it.
func (st *Stream) compare(s *Set, p []byte, i int, open opening) opening {
	t := &s.table
	w := binary.LittleEndian.Uint64(p[i:])
	from := len(st.hits)
	for at := w * hashFactor >> t.narrow; t.slots[at].form != 0; at = (at + 1) & uint64(len(t.slots)-1) {
		start := i - int(t.slots[at].offset)
		if t.slots[at].w != w || start < 0 {
			continue
		}
		f := &s.forms[t.slots[at].form-1]
		switch rest := p[start:]; {
		case bytes.HasPrefix(rest, f.needle):
			st.hits = append(st.hits, hit{start, f})
		case start < open.start && len(rest) < len(f.needle) && bytes.HasPrefix(f.needle, rest):
			open = opening{start, f}
		}
	}
	if len(st.hits)-from > 1 {
		slices.SortFunc(st.hits[from:], byStart)
	}
	return open
}

// findShort is the slow path for forms that hold no word: a pass each.
func (st *Stream) findShort(s *Set, p []byte) {
	from := len(st.hits)
	for i := range s.forms {
		f := &s.forms[i]
		if len(f.needle) >= word {
			continue
		}
		for at := 0; ; at++ {
			n := bytes.Index(p[at:], f.needle)
			if n < 0 {
				break
			}
			at += n
			st.hits = append(st.hits, hit{at, f})
		}
	}
	if len(st.hits) > from {
		slices.SortFunc(st.hits, byStart)
	}
}

func byStart(a, b hit) int {
	if a.start != b.start {
		return a.start - b.start
	}
	return len(b.form.needle) - len(a.form.needle)
}

// openingAt looks for beginnings that are too short to hold a sampled word.
func (s *Set) openingAt(p []byte, open opening) opening {
	last := len(p) - 1
	for i := max(0, len(p)-s.tail); i < min(len(p), open.start); i++ {
		if !s.first[p[i]] {
			continue
		}
		if i < last {
			two := uint(p[i])<<8 | uint(p[i+1])
			if s.bigrams[two/64]>>(two%64)&1 == 0 {
				continue
			}
		}
		if f := s.begins(p[i:]); f != nil {
			return opening{i, f}
		}
	}
	return open
}

// begins returns a form that is longer than rest and begins with it.
func (s *Set) begins(rest []byte) *form {
	for i := range s.forms {
		f := &s.forms[i]
		if len(rest) < len(f.needle) && f.needle[0] == rest[0] && bytes.HasPrefix(f.needle, rest) {
			return f
		}
	}
	return nil
}
