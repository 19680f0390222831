package sandbox

import (
	"errors"
	"testing"

	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/runtime/runsc"
)

func TestJudge(t *testing.T) {
	timeout := Result{codeTimeout, ReasonTimeout, "too long"}
	proxy := Result{codeFailed, ReasonProxy, "the proxy ended"}
	for _, tt := range []struct {
		name   string
		exit   runsc.Exit
		err    error
		cause  Result
		oom    bool
		code   int
		reason Reason
		fails  bool
	}{
		{"passes the agent's code", runsc.Exit{Code: 3}, nil, Result{}, false, 3, ReasonExit, false},
		{"passes a kill inside the sandbox", runsc.Exit{Code: 137}, nil, Result{}, false, 137, ReasonExit, false},
		{"blames memory for a kill after the limit", runsc.Exit{Code: 137}, nil, Result{}, true, 137, ReasonMemory, false},
		{"does not blame memory for an agent that went on", runsc.Exit{Code: 0}, nil, Result{}, true, 0, ReasonExit, false},
		{"tells its own kill by the cause", runsc.Exit{Code: 137, Failure: "killed"}, nil, timeout, false, 124, ReasonTimeout, false},
		{"fails when the proxy died", runsc.Exit{Code: 137, Failure: "killed"}, nil, proxy, false, 125, ReasonProxy, true},
		{"fails when gVisor did", runsc.Exit{Code: 128, Failure: "creating container: no"}, nil, Result{}, false, 125, ReasonSandbox, true},
		{"fails when runsc cannot be waited for", runsc.Exit{}, errors.New("wait"), Result{}, false, 125, ReasonSandbox, true},
		{"knows a command that is not there", runsc.Exit{Code: 128, Failure: "running container: starting container: starting root container: x: no such file or directory"}, nil, Result{}, false, 127, ReasonCommand, false},
		{"knows a command that is no program", runsc.Exit{Code: 128, Failure: "running container: starting container: starting root container: x: exec format error"}, nil, Result{}, false, 126, ReasonCommand, false},
		{"does not take a missing file of gVisor's for the command", runsc.Exit{Code: 128, Failure: "creating container: no such file or directory"}, nil, Result{}, false, 125, ReasonSandbox, true},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			r, err := judge(tt.exit, tt.err, tt.cause, tt.oom)
			if r.Code != tt.code || r.Reason != tt.reason || (err != nil) != tt.fails {
				t.Errorf("got %+v, %v", r, err)
			}
		})
	}
}

func TestLimitInWhichNothingStarts(t *testing.T) {
	for memory, ok := range map[int64]bool{0: true, 1: false, -1: false, minMemory - 1: false, minMemory: true} {
		cfg := Config{Command: []string{"true"}, State: t.TempDir(), Binary: "/bin/true", Limits: cgroup.Limits{Memory: memory}}
		if err := cfg.complete(); (err == nil) != ok || !ok && !errors.Is(err, errConfig) {
			t.Errorf("%d bytes of memory: got %v", memory, err)
		}
	}
}
