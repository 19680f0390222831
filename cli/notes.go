package cli

import "fmt"

// maxHeld is how many notices are kept for the end of a run, and heldShown how many of them are printed then.
const (
	maxHeld   = 1000
	heldShown = 10
)

// notice says what the proxy refused, once for each destination: the text up to its reason tells. On a screen that the
// agent draws itself a line of ours would be in its way, and its next line in ours: there it waits for the end of the
// run, and who wants to know now asks `superserve watch`.
func (sh *shell) notice(o *outlet, f runFlags, text string) {
	switch {
	case o.later(text):
	case o.json:
		o.event(runEvent{Type: "notice", Text: text})
	case f.quiet:
	case !f.tty:
		sh.note("%s", escapeLine(text))
	case o.raw():
		o.keep(text)
	default:
		// Our terminal is raw all the same, and a line end needs its carriage return.
		fmt.Fprintf(sh.err, "\r%s %s\r\n", sh.paint(sh.err, yellow, "note:"), escapeLine(text))
	}
}

// hold keeps our own lines from the terminal while a question stands there. release prints them.
func (o *outlet) hold() (release func()) {
	o.asking.Lock()
	defer o.asking.Unlock()
	o.asked = true
	return func() {
		o.asking.Lock()
		waiting := o.waiting
		o.asked, o.waiting = false, nil
		o.asking.Unlock()
		for _, text := range waiting {
			o.say(text)
		}
	}
}

// later keeps a line that has to wait.
func (o *outlet) later(text string) bool {
	o.asking.Lock()
	defer o.asking.Unlock()
	if o.asked && len(o.waiting) < maxHeld {
		o.waiting = append(o.waiting, text)
	}
	return o.asked
}

// keep holds a line back for the end of the run.
func (o *outlet) keep(text string) {
	o.asking.Lock()
	defer o.asking.Unlock()
	if len(o.held) < maxHeld {
		o.held = append(o.held, text)
	}
}

// raw reports whether the agent draws the screen. Before it runs it does not.
func (o *outlet) raw() bool {
	s := o.agent.Load()
	return s != nil && s.Raw()
}

// heldNotes prints what was held back, when the screen is the user's again. The run must have ended.
func (sh *shell) heldNotes(o *outlet, run string) {
	for _, text := range o.held[:min(len(o.held), heldShown)] {
		sh.note("%s", escapeLine(text))
	}
	if more := len(o.held) - heldShown; more > 0 {
		sh.note("%d more: superserve watch %s", more, run)
	}
}
