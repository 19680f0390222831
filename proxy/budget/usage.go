// Package budget counts what the answers of model providers cost, in tokens and in money, and refuses requests when a
// limit of superserve.yaml is reached. It reads answers as they pass, decoded, in any pieces, and keeps nothing of them.
//
// Counting fails closed. An answer that says nothing of its tokens, because it was cut off or because nobody asked for
// that, is estimated from its size; a model without a price is taken for the dearest one.
package budget

import (
	"bytes"
	"strings"
)

// Usage is what one answer, or all of a WebSocket so far, has used. Input has no cached tokens in it.
type Usage struct {
	Model                               string
	Input, Output                       int64
	CacheRead, CacheWrite, CacheWrite1h int64 // CacheWrite has those of an hour in it
}

// Tokens is the sum.
func (u Usage) Tokens() int64 { return u.Input + u.Output + u.CacheRead + u.CacheWrite }

// less is what of u came after t.
func (u Usage) less(t Usage) Usage {
	return Usage{u.Model, u.Input - t.Input, u.Output - t.Output, u.CacheRead - t.CacheRead, u.CacheWrite - t.CacheWrite, u.CacheWrite1h - t.CacheWrite1h}
}

// counts are the numbers as the answer says them.
type counts struct {
	input, output, read, write, hour int64
	within                           bool // the cached tokens are part of the input, as OpenAI counts
}

// reader finds usage in an answer: one document, an event stream, or the messages of a WebSocket.
type reader struct {
	scan   scanner
	socket bool   // each document with a usage is an answer of its own
	each   func() // called behind each of those

	model  string
	doc    counts // of the document that is being read
	told   bool   // that document speaks of usage
	last   bool   // and of usage that is final
	sum    counts // of the answer, or of those of the socket that are whole
	final  bool
	begun  bool
	events int64 // tokens that the documents may hold, for an estimate
	bytes  int64
}

func newReader(socket bool) *reader {
	r := &reader{socket: socket}
	r.scan = scanner{found: r.take, ended: r.end}
	return r
}

// write takes the next piece of the answer. What does not begin as JSON is an event stream.
func (r *reader) write(p []byte) {
	if !r.begun {
		if first := bytes.TrimLeft(p, " \t\r\n"); len(first) > 0 {
			r.begun, r.scan.lines = true, first[0] != '{' && first[0] != '[' && !r.socket
		}
	}
	r.bytes += int64(len(p))
	r.scan.write(p)
}

// take notes a value. The places are usage.X, message.usage.X (the first event of Anthropic's streams), response.usage.X
// (the last of OpenAI's), and model beside each usage.
func (r *reader) take(path []word, text []byte, isNumber bool) {
	top := path[0]
	if top == wordMessage || top == wordResponse {
		path = path[1:]
	}
	switch {
	case len(path) == 1 && path[0] == wordModel && !isNumber:
		r.model = strings.Clone(string(text))
		return
	case len(path) < 2 || path[0] != wordUsage || !isNumber:
		return
	}
	n := count(text)
	c := &r.doc
	if len(path) == 3 {
		switch {
		case path[1] == wordCreation && path[2] == wordHour:
			c.hour = n
		case (path[1] == wordInputDetails || path[1] == wordPromptDetails) && path[2] == wordCached:
			c.read, c.within = n, true
		case (path[1] == wordInputDetails || path[1] == wordPromptDetails) && path[2] == wordWritten:
			c.write, c.within = n, true
		}
		return
	}
	r.told, r.last = true, r.last || top != wordMessage
	switch path[1] {
	case wordInput, wordPrompt:
		c.input = n
	case wordOutput, wordCompletion:
		c.output = n
	case wordCacheRead:
		c.read = n
	case wordCacheWrite:
		c.write = n
	}
}

// tokenBytes is how many bytes of text are taken for a token, eventBytes what an event has around the one that it brings.
const (
	tokenBytes = 4
	eventBytes = 512
)

// end closes a document.
func (r *reader) end(size int) {
	r.events += 1 + max(0, int64(size-eventBytes))/tokenBytes
	told := r.told
	if told {
		r.merge()
	}
	r.doc, r.told, r.last = counts{}, false, false
	if told && r.each != nil {
		r.each()
	}
}

// merge takes a document's numbers over. In a stream they grow from event to event, and are never added.
func (r *reader) merge() {
	d, s := r.doc, &r.sum
	if r.socket {
		s.input, s.output, s.read, s.write, s.hour = s.input+d.input, s.output+d.output, s.read+d.read, s.write+d.write, s.hour+d.hour
		r.events = 0 // what came before it is accounted for
	} else {
		s.input, s.output, s.read = max(s.input, d.input), max(s.output, d.output), max(s.read, d.read)
		s.write, s.hour = max(s.write, d.write), max(s.hour, d.hour)
	}
	s.within = s.within || d.within
	r.final = r.final || r.last
}

// usage is what was found, and what has to be assumed beyond it. sent is the size of the request, in bytes; billed says
// that the answer is one which costs.
func (r *reader) usage(sent int64, billed bool) Usage {
	c := r.sum
	if c.within {
		c.input = max(0, c.input-c.read-c.write)
	}
	u := Usage{Model: r.model, Input: c.input, Output: c.output, CacheRead: c.read, CacheWrite: max(c.write, c.hour), CacheWrite1h: c.hour}
	switch {
	case r.socket:
		u.Output += r.events
	case r.final, !billed:
	default:
		if u.Input+u.CacheRead+u.CacheWrite == 0 {
			u.Input = sent / tokenBytes
		}
		guess := r.events
		if !r.scan.lines {
			guess = r.bytes / tokenBytes
		}
		u.Output = max(u.Output, guess)
	}
	return u
}
