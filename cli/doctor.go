package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/bpf"
	"github.com/superserve/superserve/runtime/cgroup"
	"github.com/superserve/superserve/runtime/netns"
	"github.com/superserve/superserve/runtime/sandbox"
	"github.com/superserve/superserve/secretd/client"
)

// finding is one line of the doctor's table.
type finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`           // what was seen
	Remedy string `json:"remedy,omitempty"` // what to do, if not OK
}

func (sh *shell) doctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine offers and lacks",
		Long: `Say what this machine offers and lacks, by trying: the BPF programs are attached to a throw-away
control group and a sandbox is started. Nothing is left behind. Exit code 1 if something is missing.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return sh.doctor(cmd.Context(), asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (sh *shell) doctor(ctx context.Context, asJSON bool) error {
	p, err := sh.places()
	if err != nil {
		return err
	}
	findings := examine(ctx, p)
	if asJSON {
		err = sh.json(findings)
	} else {
		sh.printFindings(findings)
	}
	for _, f := range findings {
		if !f.OK && err == nil {
			err = exitCode(exitError)
		}
	}
	return err
}

func (sh *shell) printFindings(findings []finding) {
	for _, f := range findings {
		mark := sh.paint(sh.out, green, "✓")
		if !f.OK {
			mark = sh.paint(sh.out, red, "✗")
		}
		fmt.Fprintf(sh.out, "%s %-14s %s\n", mark, f.Name, escapeLine(f.Detail))
		if !f.OK && f.Remedy != "" {
			fmt.Fprintf(sh.out, "  %-14s → %s\n", "", f.Remedy)
		}
	}
}

// examine tries everything in the order in which a run needs it. What needs root is not tried without.
func examine(ctx context.Context, p places) []finding {
	findings := []finding{checkKernel(), checkRoot()}
	if os.Geteuid() == 0 {
		findings = append(findings, checkCage()...)
		findings = append(findings, checkIPv6())
	}
	findings = append(findings, checkSecretd(ctx, p), checkModes(p))
	if os.Geteuid() == 0 {
		findings = append(findings, checkBoot(ctx, sandbox.Config{Binary: ourselves()}, bootPatience))
	}
	return findings
}

// verdict makes a finding of an error; detail is said when there is none.
func verdict(name, detail string, err error, remedy string) finding {
	if err != nil {
		line, _, _ := strings.Cut(err.Error(), "\n") // a verifier's log follows
		return finding{name, false, line, remedy}
	}
	return finding{Name: name, OK: true, Detail: detail}
}

func checkKernel() finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return verdict("kernel", "", err, "")
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	fmt.Sscanf(release, "%d.%d", &major, &minor)
	var err error
	if major < 6 || major == 6 && minor < 1 {
		err = fmt.Errorf("Linux %s", release)
	}
	return verdict("kernel", "Linux "+release, err, "use Linux 6.1 or newer (Debian 12, Ubuntu 24.04, RHEL 10)")
}

// checkRoot asks for root and, since a container's root may have lost them, for the capabilities.
func checkRoot() finding {
	if os.Geteuid() != 0 {
		return finding{"root", false, fmt.Sprintf("user %d", os.Geteuid()), "run it with sudo: starting a sandbox needs root"}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return verdict("root", "", err, "mount /proc")
	}
	var held uint64
	for line := range strings.Lines(string(status)) {
		fmt.Sscanf(line, "CapEff: %x", &held)
	}
	var lacks []string
	for _, c := range []struct {
		bit  int
		name string
	}{{12, "NET_ADMIN"}, {21, "SYS_ADMIN"}, {7, "SETUID"}, {1, "DAC_OVERRIDE"}, {39, "BPF"}} {
		if held>>c.bit&1 == 0 {
			lacks = append(lacks, "CAP_"+c.name)
		}
	}
	if len(lacks) > 0 {
		err = fmt.Errorf("root without %s", joinWords(lacks))
	}
	return verdict("root", "root, with its capabilities", err, "run superserve on the machine itself, not in an unprivileged container")
}

// checkCage makes a throw-away leaf, attaches every program to it and starts a process in it.
func checkCage() []finding {
	h, err := cgroup.Find()
	if err != nil {
		return []finding{verdict("cgroup", "", err, "mount cgroup v2: mount -t cgroup2 none /sys/fs/cgroup/unified")}
	}
	mode := "v2 at " + h.Root
	if h.Hybrid() {
		mode = "hybrid, v2 at " + h.Root
	}
	leaf, err := cgroup.New(h, fmt.Sprintf("doctor-%d", os.Getpid()), cgroup.Limits{})
	if err != nil {
		return []finding{verdict("cgroup", "", err, "make "+h.Root+" writable for root: it is read-only in most containers")}
	}
	findings := []finding{verdict("cgroup", mode, nil, ""), checkPrograms(leaf), checkClone(leaf)}
	if err := leaf.Close(); err != nil {
		findings = append(findings, verdict("cgroup", "", err, "remove the group superserve below "+h.Root+" by rmdir"))
	}
	return findings
}

func checkPrograms(leaf *cgroup.Leaf) finding {
	features := bpf.Probe(leaf.File())
	for _, f := range features {
		if f.Err != nil {
			return verdict("bpf", "", fmt.Errorf("%s (%s): %w", f.Name, f.Need, f.Err),
				"use a kernel with CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL, and allow bpf(2) to root")
		}
	}
	return verdict("bpf", fmt.Sprintf("%d checks, every program attached and detached", len(features)), nil, "")
}

func checkClone(leaf *cgroup.Leaf) finding {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"superserve", "version"} // by its first word this program tells what it is
	err := leaf.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	return verdict("clone3", "a process is born in its control group", err, "allow clone3(2): a seccomp filter of a container forbids it")
}

// checkIPv6 is no fault: without it agents have IPv4, and every IPv6 socket is refused.
func checkIPv6() finding {
	ns, err := netns.New()
	if err != nil {
		return verdict("network", "", err, "allow root to make network namespaces (user.max_net_namespaces)")
	}
	defer ns.Close()
	if ns.IPv6() {
		return verdict("network", "a namespace with only lo, IPv4 and IPv6", nil, "")
	}
	return verdict("network", "a namespace with only lo, IPv4 (this machine has no IPv6)", nil, "")
}

// checkSecretd does not start one: that none runs is no fault while one is there to be started.
func checkSecretd(ctx context.Context, p places) finding {
	const remedy = "build it with `make build`, or put it beside superserve"
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	h, err := client.New(p.socket).Health(ctx)
	if err == nil {
		return verdict("secretd", fmt.Sprintf("running, store %s, %d agent(s), %d live grant(s)", h.Store, h.Agents, h.Grants), nil, "")
	}
	if !startable(err) {
		return verdict("secretd", "", err, hint(err))
	}
	binary, err := findSecretd()
	return verdict("secretd", "not running; starts when it is needed: "+binary, err, remedy)
}

// checkModes looks at what must not be another user's to change or read.
func checkModes(p places) finding {
	for _, want := range []struct {
		name    string
		never   os.FileMode
		service bool // may belong to secretd's own user
	}{
		{p.state, 0o022, false}, {filepath.Join(p.state, "agents"), 0o022, false}, {filepath.Join(p.state, "runs"), 0o022, false},
		{filepath.Join(p.state, "secretd"), 0o077, true}, {p.run, 0o022, false},
	} {
		info, err := os.Lstat(want.name)
		if err != nil {
			continue // made with the right modes when it is needed
		}
		if err := checkMode(info, want.never, want.service && keeperUser(want.name) != ""); err != nil {
			return verdict("modes", "", fmt.Errorf("%s %w", want.name, err),
				fmt.Sprintf("chown root:root %s && chmod %04o %s", want.name, info.Mode().Perm()&^want.never, want.name))
		}
	}
	return verdict("modes", p.state+" is root's alone", nil, "")
}

func checkMode(info os.FileInfo, never os.FileMode, service bool) error {
	owner := info.Sys().(*syscall.Stat_t).Uid
	switch {
	case info.Mode()&os.ModeSymlink != 0:
		return fmt.Errorf("is a symlink")
	case owner != 0 && owner != uint32(os.Geteuid()) && !service:
		return fmt.Errorf("belongs to user %d", owner)
	case info.Mode().Perm()&never != 0:
		return fmt.Errorf("has mode %04o", info.Mode().Perm())
	}
	return nil
}

// bootPatience is how long checkBoot waits: a starved machine has needed more than half of it.
const bootPatience = time.Minute

// checkBoot runs `true` in a sandbox on a state of its own, with everything but secrets, and times it.
// gVisor's platform is the one that every run uses, never kvm unprobed. with says which programs to use.
func checkBoot(ctx context.Context, with sandbox.Config, patience time.Duration) finding {
	const remedy = "run `superserve run` with another gVisor by --runsc, and report this line"
	state, err := os.MkdirTemp("", "superserve-doctor-")
	if err != nil {
		return verdict("gvisor", "", err, "free space in "+os.TempDir())
	}
	defer os.RemoveAll(state)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	with.Agent, with.State, with.Command = "doctor", state, []string{"true"}
	result, err := sandbox.Run(ctx, with)
	if ctx.Err() == context.DeadlineExceeded {
		err = fmt.Errorf("no sandbox had started, run and ended after %v", patience)
	}
	if err == nil && result.Code != 0 {
		err = fmt.Errorf("the sandbox ended with %d: %s", result.Code, result.Detail)
	}
	return verdict("gvisor", fmt.Sprintf("a sandbox started, ran and ended in %d ms", time.Since(began).Milliseconds()), err, remedy)
}
