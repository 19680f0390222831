package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// An agent that draws its terminal's screen itself leaves no place for a question there. Root may attend to the run from
// another terminal (Attend, `superserve watch`): it is asked over the run's control socket.

// asked is what passes there, a JSON object a line: down a question and its end, up an answer.
type asked struct {
	Number uint64 `json:"number"`
	Prompt string `json:"prompt,omitempty"` // down: the question
	Word   string `json:"word,omitempty"`   // up: what was answered
	Over   bool   `json:"over,omitempty"`   // down: it needs no answer any more
}

const (
	// maxAsked is the longest line, in bytes.
	maxAsked = 4 << 10
	// tellTimeout is how long somebody who attends may take to be told something.
	tellTimeout = time.Second
)

// attendants are those who attend to a run. The zero value is nobody. It is safe for concurrent use.
type attendants struct {
	mu     sync.Mutex
	all    map[net.Conn]bool
	number uint64
	busy   bool        // a question is under way
	word   chan string // its answer's, until that has come; closed when the last who was asked is gone
}

// tell writes to all, and lets go of who cannot be written to. mu is held.
func (a *attendants) tell(m asked) {
	line, _ := json.Marshal(m) // strings and numbers
	for c := range a.all {
		c.SetWriteDeadline(time.Now().Add(tellTimeout))
		if _, err := c.Write(append(line, '\n')); err != nil {
			c.Close()
			delete(a.all, c)
		}
	}
}

// ask puts one question, one at a time.
func (a *attendants) ask(ctx context.Context, prompt string) (word string, ok bool) {
	number, answer := a.begin(prompt)
	if answer == nil {
		return "", false
	}
	select {
	case word, ok = <-answer:
	case <-ctx.Done():
		ok = true // it was asked
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy, a.word = false, nil
	a.tell(asked{Number: number, Over: true})
	return word, ok
}

// begin returns no channel when there is nobody to ask, or another question is under way.
func (a *attendants) begin(prompt string) (number uint64, answer chan string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy {
		return 0, nil
	}
	a.number++
	if a.tell(asked{Number: a.number, Prompt: prompt}); len(a.all) == 0 {
		return 0, nil
	}
	a.busy, a.word = true, make(chan string, 1)
	return a.number, a.word
}

// join has c be asked until it ends, which is when attend returns.
func (a *attendants) join(c net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all == nil {
		a.all = map[net.Conn]bool{}
	}
	a.all[c] = true
}

func (a *attendants) leave(c net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.all, c)
	if len(a.all) == 0 && a.word != nil {
		close(a.word)
		a.word = nil
	}
}

// answered takes an answer; the first counts, and one that comes late is nobody's.
func (a *attendants) answered(m asked) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.word != nil && m.Number == a.number {
		a.word <- m.Word
		a.word = nil
	}
}

// attend serves one who attends until they go or the run ends, which closes c.
func (a *attendants) attend(c net.Conn, from io.Reader) {
	c.SetDeadline(time.Time{})
	a.join(c)
	defer a.leave(c)
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxAsked)
	for lines.Scan() {
		var m asked
		if json.Unmarshal(lines.Bytes(), &m) == nil { // the end of the line before is none
			a.answered(m)
		}
	}
}

// AskAttendants has those asked who attend to the run from another terminal, and returns the first word that they answer,
// or "" when ctx ends before. It is not ok when nobody attends. The prompt is printed as it is, but for what is not
// printable.
func (s *Sandbox) AskAttendants(ctx context.Context, prompt string) (word string, ok bool) {
	return s.attendants.ask(ctx, prompt)
}

// Attend answers the questions of a run that another process supervises, one at a time, until the run ends. It needs root.
// answer gets the question and returns a word; its ctx ends when no answer is needed any more. A run that has ended
// is an error that wraps os.ErrProcessDone.
func Attend(ctx context.Context, state, run string, answer func(ctx context.Context, prompt string) string) error {
	c, err := dialControl(ctx, state, run)
	if err != nil {
		return fmt.Errorf("attend to %s: %w", run, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := json.NewEncoder(c).Encode(Order{Attend: true}); err != nil {
		return fmt.Errorf("attend to %s: %w", run, err)
	}
	if err := follow(ctx, c, answer); err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("attend to %s: %w", run, err)
	}
	return ctx.Err()
}

// follow reads what is asked, and has the question under way given up when it is over or another comes.
func follow(ctx context.Context, c io.ReadWriter, answer func(ctx context.Context, prompt string) string) error {
	lines := bufio.NewScanner(c)
	lines.Buffer(nil, maxAsked)
	last := &replying{cancel: func() {}}
	defer func() { last.end() }()
	for lines.Scan() {
		var m asked
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return errors.New("malformed line")
		}
		last.end()
		if m.Over || m.Prompt == "" {
			continue
		}
		one, cancel := context.WithCancel(ctx)
		last = &replying{cancel: cancel}
		last.done.Go(func() {
			word := answer(one, m.Prompt)
			if one.Err() == nil {
				json.NewEncoder(c).Encode(asked{Number: m.Number, Word: word}) // a run that is gone needs none
			}
		})
	}
	return lines.Err()
}

// replying is one question that is being answered.
type replying struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// end gives the question up, and waits until nobody is at it.
func (r *replying) end() {
	r.cancel()
	r.done.Wait()
}
