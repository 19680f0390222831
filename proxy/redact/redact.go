// Package redact hides real keys in what upstreams answer: each occurrence of a
// key, or of one of the forms that servers echo it in, becomes the placeholder
// that the agent knows, or a mask. Every replacement has the length of what it
// replaces, so that Content-Length, chunk sizes and frames stay as they are.
//
// The forms are listed in forms.go. What they do not cover (encryption,
// compression inside a body, a key sent in pieces over several answers, base64
// broken into lines) is out of reach: the binding of a key to its hosts is the
// boundary, redaction is what makes an honest echo harmless.
package redact

import (
	"bytes"
	"crypto/subtle"
	"runtime"
	"sync/atomic"

	"github.com/superserve/superserve/secretd/api"
)

// minKey is the shortest key that is searched for, in bytes. Replacing every
// occurrence of fewer bytes would destroy ordinary text and hide nothing.
const minKey = 4

// MinKey is the length in bytes below which New leaves a key alone; swap refuses
// to send such a key.
const MinKey = minKey

// maxKeys is how many keys a Set takes before it ignores further surroundings of
// keys that it has.
const maxKeys = 32

// Pair is one real key and what takes its place.
type Pair struct {
	// Secret reveals the key. New copies the current value.
	Secret api.Secret
	// Placeholder is what the agent knows the key by.
	Placeholder string
	// Before and After surround the key in Basic credentials that were sent, for
	// instance "x-access-token:" and "". Both empty: the key was not sent so.
	Before, After string
	// Passing says that the key is one of many that come and go, such as the signature of
	// one token: of those a Set covers the latest, as many as maxPassing.
	Passing bool
}

// maxPassing is how many passing keys a Set covers.
const maxPassing = 64

// Set is what to search for: every form of the values that some Pairs had when
// New read them. It never changes and is safe for concurrent use, except Close.
type Set struct {
	keys  []key
	forms []form
	table table
	arena arena
	// longest is the length of the longest form, in bytes; tail is how many bytes
	// at the end of a chunk may begin a form without a sampled word (table.go).
	longest, tail int
	// first and bigrams hold the first byte and the first two bytes of each form.
	first   [256]bool
	bigrams []uint64
	// short is true when some form is shorter than a word.
	short bool
	// more is a Set that is searched too, see Including; nil for nearly all.
	more *Set
	// probes counts what looks like guessing (guess.go), over this Set and those
	// that With made of it.
	probes *atomic.Int32
}

// key is a pair with its value copied into the arena.
type key struct {
	value, placeholder, before, after []byte
	passing                           bool
}

// New returns the Set of the current values of pairs, which takes 10–50 µs a key.
// A key that is gone (nil) or shorter than MinKey is left out. The copies are
// wiped when the Set and its Streams are collected.
func New(pairs []Pair) *Set { return build(&Set{probes: new(atomic.Int32)}, pairs) }

// With returns a Set that covers s and the current values of pairs: s itself when
// it does already, which costs a comparison a pair and allocates nothing. Values
// that s knew and that were rotated since stay covered. s may be nil.
func (s *Set) With(pairs []Pair) *Set {
	if s == nil {
		return New(pairs)
	}
	if s.coversAll(pairs) {
		return s
	}
	return build(s, pairs)
}

// Including returns a Set for one answer: it covers s and the keys of pairs, which came
// with its request and of which s has lost the passing ones by now. It is s itself when
// it has them, and is not for With. s may be nil.
func (s *Set) Including(pairs []Pair) *Set {
	if len(pairs) == 0 || s != nil && s.coversAll(pairs) {
		return s
	}
	if s == nil {
		return New(pairs)
	}
	n := build(&Set{probes: s.probes}, pairs)
	n.more, n.longest = s, max(n.longest, s.longest)
	return n
}

func (s *Set) coversAll(pairs []Pair) bool {
	for i := range pairs {
		if !s.covers(&pairs[i]) {
			return false
		}
	}
	return true
}

// covers reports whether the forms of p are in s. The surroundings of a key are
// the agent's to choose, so beyond maxKeys of them the forms that do not depend
// on them must do.
func (s *Set) covers(p *Pair) bool {
	value := p.Secret()
	if len(value) < minKey {
		return true
	}
	full := len(s.keys) >= maxKeys
	for i := range s.keys {
		k := &s.keys[i]
		if string(k.placeholder) == p.Placeholder && (full || string(k.before) == p.Before && string(k.after) == p.After) &&
			subtle.ConstantTimeCompare(k.value, value) == 1 {
			return true
		}
	}
	return false
}

func build(old *Set, pairs []Pair) *Set {
	s := &Set{probes: old.probes}
	surplus := -maxPassing
	for i := range pairs {
		surplus += passing(pairs[i].Passing)
	}
	for _, k := range old.keys {
		surplus += passing(k.passing)
	}
	for _, k := range old.keys {
		if k.passing && surplus > 0 {
			surplus--
			continue
		}
		s.take(k)
	}
	for i := range pairs {
		p := &pairs[i]
		if value := p.Secret(); len(value) >= minKey && !s.covers(p) {
			s.take(key{value, []byte(p.Placeholder), []byte(p.Before), []byte(p.After), p.Passing})
		}
	}
	for _, k := range s.keys {
		s.addForms(k)
	}
	s.index()
	// There is no Close: who shares a Set knows nothing of the others.
	runtime.AddCleanup(s, copies.wipe, copies{s.arena.blocks, s.table.slots})
	return s
}

// copies are where a Set has copies of keys. They are wiped when nothing uses the Set
// any more.
type copies struct {
	blocks [][]byte
	slots  []slot
}

func (c copies) wipe() {
	for _, b := range c.blocks {
		clear(b)
	}
	clear(c.slots)
}

func passing(is bool) int {
	if is {
		return 1
	}
	return 0
}

func (s *Set) take(k key) {
	k.value = s.arena.copy(k.value)
	s.keys = append(s.keys, k)
}

// Empty reports whether there is nothing to search for.
func (s *Set) Empty() bool { return s == nil || len(s.forms) == 0 && s.more.Empty() }

// Value redacts a complete value, such as that of a header field. It returns p
// itself when there is nothing to hide, else a new slice of the same length.
func (s *Set) Value(p []byte) []byte {
	if s.Empty() {
		return p
	}
	defer runtime.KeepAlive(s) // its keys lie in memory that is wiped with it
	st := Stream{set: s}
	if st.find(p); len(st.hits) == 0 {
		return p
	}
	out := bytes.Clone(p)
	st.replace(out, len(out))
	return out
}
