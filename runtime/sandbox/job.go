package sandbox

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/superserve/superserve/runtime/bundle"
	"github.com/superserve/superserve/runtime/runsc"
)

// askTime bounds what is asked of a sandbox by a process in it.
const askTime = 3 * time.Second

// inside asks and tells processes of a sandbox by means of its own shell, which is the only way that gVisor offers to
// learn that one is stopped. What it answers may be the agent's invention; at worst the user is in their shell then.
type inside struct {
	world *bundle.Bundle
	gv    *runsc.Runtime
	id    string
}

// job is the job control of a process, named by the text of its number in the sandbox.
func (i inside) job(pid func() string) *job {
	return &job{
		stopped: func() bool {
			stat := i.shell(`read -r stat < "/proc/$1/stat" && echo "$stat"`, pid())
			_, rest, _ := strings.Cut(stat, ") ")
			return strings.HasPrefix(rest, "T ")
		},
		carryOn: func() {
			if i.shell(continueGroup, pid()) == "" { // there is no shell
				i.world.Do(func() error { return i.signal(pid()).Run() })
			}
		},
	}
}

// continueGroup continues the stopped processes of a group, as fg would. It looks for them, since group 1, which is that
// of the first process, cannot be named to kill(2): -1 is everybody.
const continueGroup = `group=$1
for f in /proc/[0-9]*/stat; do
  read -r stat < "$f" || continue
  set -- ${stat##*) }
  f=${f#/proc/}
  [ "$1$3" = "T$group" ] && kill -s CONT "${f%/stat}"
done 2>/dev/null
echo done`

func (i inside) signal(pid string) *exec.Cmd {
	return i.gv.SignalProcessCommand(i.id, pid, syscall.SIGCONT)
}

// shell runs a script with one argument and returns what it says, "" if it cannot be run.
func (i inside) shell(script, arg string) string {
	r, w, err := os.Pipe()
	if err != nil {
		return ""
	}
	defer r.Close()
	var p *runsc.Container
	err = i.world.Do(func() (err error) {
		p, err = i.gv.Exec(runsc.Process{ID: i.id, Command: []string{"/bin/sh", "-c", script, "sh", arg}, Stdio: runsc.Stdio{Out: w}})
		return err
	})
	w.Close()
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { p.Kill(); r.SetReadDeadline(time.Now()) })
	defer stop()
	const longest = 4 << 10
	text, _ := io.ReadAll(io.LimitReader(r, longest))
	p.Wait()
	return string(text)
}
