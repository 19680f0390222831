package redact

// Holding back the beginning of a key tells whoever waits for it that it is one.
// An agent that has an upstream repeat what it sends, as it arrives, could so find
// a key byte by byte: the guess whose last byte is late was right. So the guesses
// are counted, and when there were more than honest data makes, the hold-back no
// longer depends on what the bytes are.
//
// Hiding a whole key tells nothing: it confirms a guess of all of it at once.

const (
	// guessed is how many bytes of a key, beyond those that its placeholder has in
	// common with it, a beginning must have to count: fewer happen by chance.
	guessed = 4
	// maxProbes is how many may be held for nothing, and so about how many more
	// bytes can be found.
	maxProbes = 3
)

// Probed reports whether so many beginnings of a key came by that somebody seems to
// be guessing it. Streams then always hold back as many bytes as the longest form
// needs, until the data ends. It is worth an alarm.
func (s *Set) Probed() bool {
	return s != nil && s.probes != nil && s.probes.Load() >= maxProbes
}

// guess returns where to hold in back from: at open, or earlier once somebody
// guesses. A doubtful beginning counts from when it is held, for whoever learned
// from that may never send on, and no more when the form is completed.
func (st *Stream) guess(in []byte, open opening) opening {
	s := st.set
	if s.Empty() {
		return open
	}
	goesOn := st.doubtful && open.start == st.doubt
	if st.doubtful && st.hitAt(st.doubt) {
		s.probes.Add(-1)
	}
	st.doubtful = open.form != nil && len(in)-open.start >= open.form.guard
	st.telling = st.doubtful || open.form != nil && 4*(len(in)-open.start+guessed-open.form.guard) > len(open.form.needle)
	if st.doubtful && !goesOn {
		s.probes.Add(1)
	}
	from := open.start
	if s.Probed() {
		from = min(from, max(0, len(in)-s.longest+1))
	}
	st.doubt = open.start - from
	return opening{from, open.form}
}

func (st *Stream) hitAt(start int) bool {
	for _, h := range st.hits {
		if h.start == start {
			return true
		}
	}
	return false
}
