package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/superserve/superserve/bpf"
	"github.com/superserve/superserve/runtime/agent"
	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/runtime/changes"
	"github.com/superserve/superserve/secretd/api"
)

// errNotRoot says that a command needs to be root and is not.
var errNotRoot = errors.New("needs root")

// advice pairs an error with what a person can do about it.
type advice struct {
	err  error
	text string
}

const seeDoctor = "see `superserve doctor`"

// hints is the one table of advice: libraries give none. The first entry that matches is said.
var hints = []advice{
	{errNotRoot, "run it with sudo"},
	{errNoSecretd, "build it with `make build`, or put it beside superserve"},
	{errServiceStopped, "sudo systemctl start superserve-secretd.socket superserve-secretd-resume.socket"},
	{errFleetDown, "start secretd with its --store again"},
	{errUnconfirmed, "start secretd again, with its --store"},
	{errNoFleet, "deploy on that host itself"},
	{errHostFiles, "give it yourself: --mount SRC:DST or --rootfs DIR"},
	{api.ErrDamaged, "find out who writes in the store, then deploy the agent again; secretd's next start says what else was changed"},
	{errShort, "take it all the same with --allow-short"},
	{api.ErrVersion, "stop the running secretd and try again: superserve starts the one it came with"},
	{api.ErrDenied, "run it with sudo, or join the group superserve"},
	{api.ErrUnavailable, seeDoctor},
	{agent.ErrNoManifest, "run `superserve init` in the project's folder"},
	{changes.ErrConflict, "look at it with superserve diff, then insist with --force"},
	{errNoChanges, "give --copy to `superserve run`"},
	{errOtherFolder, "give this run another name: --name NAME"},
	{errNotShared, "go to the project's own folder, or insist with --yes-share"},
	{errNotInEnvironment, "export it first, or store it: superserve secrets set AGENT NAME=..."},
	{errOtherSource, "if it is to take that agent's place and secrets: superserve deploy DIR"},
	{errNoTerminal, "answer ahead with -y"},
	{os.ErrPermission, "run it with sudo"},
	{cgroup.ErrNoCgroup2, seeDoctor},
	{cgroup.ErrQuota, "ask for fewer --cpus, or raise cpu.cfs_quota_us of the control group that superserve was started in"},
	{bpf.ErrNotSupported, seeDoctor},
}

// hint returns the advice for err, "" when there is none.
func hint(err error) string {
	var unknown unknownError
	if errors.As(err, &unknown) {
		return unknown.hint()
	}
	var lost noCommandError
	if errors.As(err, &lost) && lost.install != "" {
		return "install it: " + lost.install
	}
	if errors.As(err, &lost) && lost.near != "" {
		return fmt.Sprintf("did you mean '%s'?", escapeLine(lost.near))
	}
	var usage usageError
	if errors.As(err, &usage) {
		return fmt.Sprintf("see `%s --help`", usage.cmd)
	}
	for _, h := range hints {
		if errors.Is(err, h.err) {
			return h.text
		}
	}
	return ""
}

// unknownError is a name that nothing has, with the names that it might have meant.
type unknownError struct {
	kind  string // "command", "agent"
	name  string
	known []string
	list  string // the command that lists them
}

// Error names the word.
func (e unknownError) Error() string {
	return fmt.Sprintf("unknown %s '%s'", e.kind, escapeLine(e.name))
}

func (e unknownError) hint() string {
	if near := agent.Nearest(e.name, e.known); near != "" {
		return fmt.Sprintf("did you mean '%s'?", near)
	}
	return fmt.Sprintf("see `%s`", e.list)
}
