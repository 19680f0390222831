package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
)

// startPatience is how long a secretd may take from its start to its first answer. It opens one small
// file; two orders of magnitude more than that is a machine in trouble.
const startPatience = 10 * time.Second

// errNoSecretd means that there is no secretd to be started.
var errNoSecretd = errors.New("secretd is not installed")

// errServiceStopped means that secretd is a service here, which only the service manager starts.
var errServiceStopped = errors.New("the service does not run")

// serviceUser is who secretd runs as where it was installed as a package.
const serviceUser = "superserve"

// secretd returns a client of the running secretd. Where none runs it starts the one beside this
// binary, as ssh-agent's and bazel's clients do, so that a new user types one command; under systemd
// the socket exists from boot and a connect is what starts it.
func (sh *shell) secretd(ctx context.Context) (*client.Client, error) {
	if sh.keeper != nil {
		return sh.keeper, nil
	}
	c, err := sh.reachSecretd(ctx)
	if err != nil {
		return nil, err
	}
	sh.keeper = c
	return c, nil
}

func (sh *shell) reachSecretd(ctx context.Context) (*client.Client, error) {
	if sh.remote.server != "" {
		return sh.remote.client()
	}
	p, err := sh.places()
	if err != nil {
		return nil, err
	}
	if len(p.socket) >= len(unix.RawSockaddrUnix{}.Path) {
		return nil, fmt.Errorf("the path of --state is too long for a socket below it: %s", p.socket)
	}
	c := client.New(p.socket)
	if err := health(ctx, c); !startable(err) {
		return c, err
	}
	unlock, err := lockStart(p)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := health(ctx, c); !startable(err) {
		return c, err // another superserve started it meanwhile
	}
	return c, p.startSecretd(ctx, c)
}

// health asks for a sign of life and the protocol's version.
func health(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	_, err := c.Health(ctx)
	return err
}

// startable reports whether err means that nobody listens: no socket, one whose owner is gone, or one
// whose owner went while we spoke to it.
func startable(err error) bool {
	for _, gone := range []error{os.ErrNotExist, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// lockStart lets one superserve at a time start secretd. The folder is root's: who cannot make it
// cannot start secretd either.
func lockStart(p places) (unlock func(), err error) {
	if err := os.MkdirAll(p.run, 0o750); err != nil {
		return nil, startError(err)
	}
	f, err := os.OpenFile(filepath.Join(p.run, "secretd.lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, startError(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, startError(err)
	}
	return func() { f.Close() }, nil
}

func startError(err error) error { return fmt.Errorf("start secretd: %w", err) }

// startSecretd starts secretd in a session of its own, so that neither the terminal's Ctrl-C nor its
// end reaches it, and waits for its first answer.
func (p places) startSecretd(ctx context.Context, c *client.Client) error {
	if owner := keeperUser(filepath.Join(p.state, "secretd")); owner != "" {
		return fmt.Errorf("secretd runs as the user %s here: %w", owner, errServiceStopped)
	}
	if p.sharesStore() {
		return startError(errFleetDown) // one without its --store would make another store
	}
	binary, err := findSecretd()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(p.run, "secretd.log"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return startError(err)
	}
	defer log.Close()
	cmd := exec.Command(binary, "--state", p.state, "--socket", p.socket)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return startError(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return awaitSecretd(ctx, c, ended, log.Name())
}

// keeperUser returns the user that secretd runs as where it is a service, "" where it is not one.
func keeperUser(dir string) string {
	info, err := os.Lstat(dir)
	if err != nil {
		return ""
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if int(owner) == os.Geteuid() {
		return ""
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(owner), 10))
	if err != nil || u.Username != serviceUser {
		return ""
	}
	return u.Username
}

// awaitSecretd waits until secretd answers, has ended or is too late.
func awaitSecretd(ctx context.Context, c *client.Client, ended <-chan error, log string) error {
	late := time.After(startPatience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := health(ctx, c)
		if !startable(err) {
			return err
		}
		select {
		case <-ended:
			return fmt.Errorf("secretd ended at its start: %s: %w", lastLine(log), api.ErrUnavailable)
		case <-late:
			return fmt.Errorf("secretd does not answer: %w", api.ErrUnavailable)
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// lastLine is what secretd said last, for the error of its start.
func lastLine(name string) string {
	const most = 4 << 10
	text, err := os.ReadFile(name)
	if err != nil || len(text) == 0 {
		return "it said nothing"
	}
	lines := strings.Split(strings.TrimSpace(string(text[max(0, len(text)-most):])), "\n")
	return escapeLine(lines[len(lines)-1])
}

// findSecretd looks beside this binary, then in PATH.
func findSecretd() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "secretd")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	found, err := exec.LookPath("secretd")
	if err != nil {
		return "", fmt.Errorf("%w beside superserve or on PATH", errNoSecretd)
	}
	return filepath.Abs(found)
}
