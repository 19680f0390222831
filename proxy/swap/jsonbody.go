package swap

import (
	"bytes"

	"github.com/superserve/superserve/secretd/api"
)

// findMembers examines the string members of a JSON text, which is valid, that some
// binding at t names: "token" is a member of the outermost object, "auth.token" one
// of the object in its member auth. What is inside an array is content, not a
// credential, and is left alone.
func (s *Swapper) findMembers(found []finding, t *Target, text []byte) []finding {
	w := jsonWalk{text: text}
	w.visit = func(start, end int) {
		if use, weak, bound := s.bindsAt(t, api.UseJSON, w.path); bound {
			found = append(found, s.placed(finding{site: atBody, value: text, use: use, weak: weak}, t,
				unquote(text[start:end]), start, end, appendJSON))
		}
	}
	w.value()
	return found
}

// maxMembers is how deep objects may lie within each other to be named.
const maxMembers = 8

// jsonWalk goes through a valid JSON text.
type jsonWalk struct {
	text  []byte
	at    int
	path  []byte // names of the objects' members down to here, with dots
	depth int
	visit func(start, end int)
}

// value goes through one value. Deep ones are skipped in a loop, so that the depth
// of the stack is bounded.
func (w *jsonWalk) value() {
	w.space()
	switch w.text[w.at] {
	case '{':
		if w.depth == maxMembers {
			w.skip()
			return
		}
		w.object()
	case '"':
		start, end := w.str()
		w.visit(start, end)
	default:
		w.skip()
	}
}

func (w *jsonWalk) object() {
	w.at++
	w.depth++
	outer := len(w.path)
	for w.space(); w.text[w.at] != '}'; w.space() {
		if w.text[w.at] == ',' {
			w.at++
			w.space()
		}
		start, end := w.str()
		if outer > 0 {
			w.path = append(w.path, '.')
		}
		w.path = append(w.path, member(w.text[start:end])...)
		w.space()
		w.at++ // the colon
		w.value()
		w.path = w.path[:outer]
	}
	w.depth--
	w.at++
}

// member returns a member's name. One that is empty or has a dot in it would read
// like another path, and becomes what no binding can name.
func member(raw []byte) []byte {
	name := unquote(raw)
	if len(name) == 0 || bytes.IndexByte(name, '.') >= 0 {
		return []byte{0}
	}
	return name
}

// str goes over a string and returns where its inside is.
func (w *jsonWalk) str() (start, end int) {
	w.at++
	start = w.at
	for w.text[w.at] != '"' {
		if w.text[w.at] == '\\' {
			w.at++
		}
		w.at++
	}
	w.at++
	return start, w.at - 1
}

// skip goes over one value without looking into it.
func (w *jsonWalk) skip() {
	for depth := 0; w.at < len(w.text); {
		switch w.text[w.at] {
		case '"':
			w.str()
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return
			}
			if depth == 0 {
				w.at++
				return
			}
		case ',':
			if depth == 0 {
				return
			}
		}
		w.at++
	}
}

func (w *jsonWalk) space() {
	for w.at < len(w.text) {
		switch w.text[w.at] {
		case ' ', '\t', '\r', '\n':
			w.at++
		default:
			return
		}
	}
}
