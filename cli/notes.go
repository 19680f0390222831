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
	case o.json:
		o.event(runEvent{Type: "notice", Text: text})
	case f.quiet:
	case !f.tty:
		sh.note("%s", escapeLine(text))
	case o.raw():
		if len(o.held) < maxHeld {
			o.held = append(o.held, text)
		}
	default:
		// Our terminal is raw all the same, and a line end needs its carriage return.
		fmt.Fprintf(sh.err, "\r%s %s\r\n", sh.paint(sh.err, yellow, "note:"), escapeLine(text))
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
