package budget

import "strconv"

// word is a key or a value that the scanner knows, 0 for any other.
type word uint8

const (
	wordNone word = iota
	wordUsage
	wordMessage
	wordResponse
	wordModel
	wordInput
	wordOutput
	wordPrompt
	wordCompletion
	wordCacheWrite
	wordCacheRead
	wordInputDetails
	wordPromptDetails
	wordCached
	wordWritten
	wordCreation
	wordHour
)

// known are the keys that lead to what an answer cost, in the APIs of Anthropic (Messages) and OpenAI (Chat
// Completions, Responses, Embeddings, Realtime), November 2026.
var known = map[string]word{
	"usage": wordUsage, "message": wordMessage, "response": wordResponse, "model": wordModel,
	"input_tokens": wordInput, "output_tokens": wordOutput, "prompt_tokens": wordPrompt, "completion_tokens": wordCompletion,
	"cache_creation_input_tokens": wordCacheWrite, "cache_read_input_tokens": wordCacheRead,
	"input_tokens_details": wordInputDetails, "prompt_tokens_details": wordPromptDetails, "input_token_details": wordInputDetails,
	"cached_tokens": wordCached, "cache_write_tokens": wordWritten,
	"cache_creation": wordCreation, "ephemeral_1h_input_tokens": wordHour,
}

const (
	// maxKnown is the deepest object that is looked at: response, usage, input_tokens_details.
	maxKnown = 4
	// maxNesting is how deep objects and arrays may nest; deeper, a document is passed over.
	maxNesting = 512
	// maxWord is the longest key or value that is kept, in bytes. The longest known key has 27.
	maxWord = 96
)

// scanner reads JSON documents one after the other, in pieces of any size, and hands on the numbers and strings that
// stand at known places. It holds no more than a word. What is outside of any object is passed over, so that the fields
// of an event stream are; there a line's end also ends whatever was not whole. It trusts nothing: the bytes are an
// upstream's, and through it anybody's.
type scanner struct {
	found func(path []word, text []byte, isNumber bool)
	ended func(size int) // a document is over; its length in bytes
	lines bool           // a document never crosses a line's end

	depth   int
	arrays  [maxNesting / 64]uint64 // which levels are arrays
	path    [maxKnown + 1]word      // keys, by depth from 1
	inText  bool
	escaped bool
	key     bool // the next string is a key
	long    bool // the word does not fit
	text    []byte
	size    int
}

// write takes the next piece.
func (s *scanner) write(p []byte) {
	for i := 0; i < len(p); i++ {
		switch {
		case s.depth == 0:
			if p[i] == '{' {
				s.open(false)
			}
		case s.inText:
			i = s.string(p, i)
			continue
		default:
			s.byte(p[i])
		}
		if s.depth > 0 {
			s.size++
		}
	}
}

// string reads on in a string from p[i], and returns the index of the last byte that it took.
func (s *scanner) string(p []byte, i int) int {
	from := i
	for ; i < len(p); i++ {
		c := p[i]
		switch {
		case s.escaped:
			s.escaped = false
		case c == '\\':
			s.escaped, s.long = true, true // no known word has one
		case c == '"':
			s.keep(p[from:i])
			s.size += i - from + 1
			s.endString()
			return i
		case c == '\n' && s.lines:
			s.abandon()
			return i
		}
	}
	s.keep(p[from:i])
	s.size += i - from
	return i
}

// keep adds to the word, if it may still matter.
func (s *scanner) keep(p []byte) {
	if s.long || s.depth > maxKnown || len(s.text)+len(p) > maxWord {
		s.long = true
		return
	}
	s.text = append(s.text, p...)
}

func (s *scanner) endString() {
	s.inText = false
	switch {
	case s.depth > maxKnown || s.array():
	case s.key:
		s.path[s.depth] = wordNone
		if !s.long {
			s.path[s.depth] = known[string(s.text)]
		}
		s.key = false
	case !s.long:
		s.hand(false)
	}
	s.text, s.long = s.text[:0], false
}

// hand gives a value on whose every key is known.
func (s *scanner) hand(isNumber bool) {
	for _, w := range s.path[1 : s.depth+1] {
		if w == wordNone {
			return
		}
	}
	s.found(s.path[1:s.depth+1], s.text, isNumber)
}

// byte reads what is between strings.
func (s *scanner) byte(c byte) {
	switch {
	case c == '\n' && s.lines:
		s.abandon()
		return
	case c >= '0' && c <= '9' || c == '-' || c == '.' || c == 'e' || c == 'E' || c == '+':
		s.keep([]byte{c})
		return
	}
	s.endNumber()
	switch c {
	case '"':
		s.inText = true
	case '{', '[':
		s.open(c == '[')
	case '}', ']':
		s.close()
	case ',':
		s.key = !s.array()
	}
}

func (s *scanner) endNumber() {
	if len(s.text) > 0 && !s.long && !s.key && !s.array() && s.depth <= maxKnown {
		if s.text[0] <= '9' { // not the e of true, false and null
			s.hand(true)
		}
	}
	s.text, s.long = s.text[:0], false
}

func (s *scanner) array() bool {
	return s.arrays[s.depth/64]&(1<<(s.depth%64)) != 0
}

func (s *scanner) open(array bool) {
	s.depth++
	if s.depth >= maxNesting {
		s.abandon()
		return
	}
	s.arrays[s.depth/64] &^= 1 << (s.depth % 64)
	if array {
		s.arrays[s.depth/64] |= 1 << (s.depth % 64)
	}
	if s.depth <= maxKnown {
		s.path[s.depth] = wordNone
	}
	s.key = !array
}

func (s *scanner) close() {
	s.depth--
	s.key = false
	if s.depth == 0 {
		s.ended(s.size + 1)
		s.size = 0
	}
}

// abandon gives up a document that is not whole or too deep.
func (s *scanner) abandon() {
	if s.depth > 0 {
		s.ended(s.size)
	}
	s.depth, s.size, s.inText, s.escaped, s.key, s.long, s.text = 0, 0, false, false, false, false, s.text[:0]
}

// count reads a number of tokens. What is none, negative or beyond reason is 0.
func count(text []byte) int64 {
	const most = 1 << 40
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n < 0 || n > most {
		return 0
	}
	return n
}
