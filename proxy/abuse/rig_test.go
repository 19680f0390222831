package abuse

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const MiB = 1 << 20

// victim is a proxy process under attack.
type victim struct {
	t     *testing.T
	cmd   *exec.Cmd
	addr  string
	roots *x509.CertPool
	in    io.WriteCloser
	out   *bufio.Reader
}

// start starts a proxy in front of up, and warms it with a request of each protocol.
func start(t *testing.T, up *upstream, options ...func(*childConfig)) *victim {
	t.Helper()
	cfg := childConfig{Upstream: up.addr, Roots: string(up.pem), Audit: filepath.Join(t.TempDir(), "audit.jsonl")}
	for _, o := range options {
		o(&cfg)
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	v := &victim{t: t, cmd: exec.Command(os.Args[0]), roots: x509.NewCertPool()}
	v.cmd.Env = append(os.Environ(), childMode+"="+string(text))
	v.cmd.Stderr = os.Stderr
	if v.in, err = v.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := v.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.stop)
	addr, der, out, err := readAddress(stdout)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	v.addr, v.out = addr, out
	v.roots.AddCert(cert)
	if !cfg.Local {
		v.warm()
	}
	return v
}

// stop ends the process: it ends by itself when its input does, and with an error if it had died before.
func (v *victim) stop() {
	v.in.Close()
	if err := v.cmd.Wait(); err != nil && !v.t.Failed() {
		v.t.Errorf("the proxy died: %v", err)
	}
}

// warm makes the first requests, which touch code and memory that all later ones share.
func (v *victim) warm() {
	for _, proto := range []string{"http/1.1", "h2"} {
		if _, err := v.ask(v.client(proto), "/ok"); err != nil {
			v.t.Fatal(err)
		}
	}
}

// dial connects as an agent that offers one protocol, or none.
func (v *victim) dial(protos ...string) *tls.Conn {
	v.t.Helper()
	c, err := v.tryDial(protos...)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { c.NetConn().Close() })
	return c
}

func (v *victim) tryDial(protos ...string) (*tls.Conn, error) {
	d := net.Dialer{Timeout: time.Minute}
	return tls.DialWithDialer(&d, "tcp", v.addr, v.config(protos...))
}

func (v *victim) config(protos ...string) *tls.Config {
	return &tls.Config{RootCAs: v.roots, ServerName: host, NextProtos: protos}
}

// client is an honest client.
func (v *victim) client(proto string) *http.Client {
	tr := &http.Transport{
		TLSClientConfig: v.config(proto), DisableCompression: true, ForceAttemptHTTP2: proto == "h2",
		DialTLS: func(_, _ string) (net.Conn, error) { return v.tryDial(proto) },
	}
	v.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// ask does one request with the key and reads the answer.
func (v *victim) ask(c *http.Client, path string) (string, error) {
	req, err := http.NewRequest("GET", "https://"+host+path, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+placeholder)
	res, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != 200 {
		err = fmt.Errorf("status %d", res.StatusCode)
	}
	return string(body), err
}

// p99 asks n times, one after the other, and returns the delays' 99th percentile.
func (v *victim) p99(n int) time.Duration {
	c := v.client("http/1.1")
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		if _, err := v.ask(c, "/ok"); err != nil {
			v.t.Errorf("an honest request: %v", err)
			return 0
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[n*99/100]
}

// stats asks the process; "gc" makes it collect its garbage first.
func (v *victim) stats(command string) (s childStats) {
	v.t.Helper()
	fmt.Fprintln(v.in, command)
	line, err := v.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &s)
	}
	if err != nil {
		v.t.Fatalf("the proxy does not answer: %v", err)
	}
	return s
}

// status reads a size of /proc/PID/status, in bytes.
func (v *victim) status(field string) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.cmd.Process.Pid))
	if err != nil {
		v.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10
		}
	}
	v.t.Fatalf("/proc has no %s", field)
	return 0
}

func (v *victim) cpu() time.Duration {
	var ts unix.Timespec
	clock := ^v.cmd.Process.Pid<<3 | 2 // CLOCK_PROCESS_CPUTIME_ID of another process: MAKE_PROCESS_CPUCLOCK, CPUCLOCK_SCHED
	if err := unix.ClockGettime(int32(clock), &ts); err != nil {
		v.t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

func (v *victim) files() int {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", v.cmd.Process.Pid))
	if err != nil {
		v.t.Fatal(err)
	}
	return len(list)
}

// cost is what an attack cost the proxy.
type cost struct {
	Peak       int64 // resident bytes above what there was before
	CPU, Took  time.Duration
	Goroutines int   // above what there was before, when the attack ended
	Read       int64 // bytes read from the attacker
}

// measure runs an attack, which returns when it was refused or is as bad as it gets.
func (v *victim) measure(attack func()) cost {
	v.t.Helper()
	before := v.stats("gc")
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", v.cmd.Process.Pid), []byte("5"), 0); err != nil {
		v.t.Fatal(err)
	}
	rss, cpu, began := v.status("VmRSS"), v.cpu(), time.Now()
	attack()
	c := cost{Took: time.Since(began), CPU: v.cpu() - cpu, Peak: v.status("VmHWM") - rss}
	after := v.stats("stats")
	c.Goroutines, c.Read = after.Goroutines-before.Goroutines, after.Read-before.Read
	return c
}

// patience is what times by the clock are multiplied with where other tests run at the same time.
func patience() time.Duration {
	if os.Getenv("LIMITS") != "" {
		return 1
	}
	return 10
}

// within prints c and fails the test where it exceeds bound, whose zero fields say nothing.
func (c cost) within(t *testing.T, bound cost) {
	t.Helper()
	bound.Took *= patience()
	t.Logf("LIMIT | %s | %.1f MiB%s | %v%s | %v%s | %d%s | %d KiB", strings.TrimPrefix(t.Name(), "Test"),
		float64(c.Peak)/MiB, limit(bound.Peak, "%d MiB", bound.Peak/MiB), c.CPU.Round(time.Millisecond), limit(int64(bound.CPU), "%v", bound.CPU),
		c.Took.Round(time.Millisecond), limit(int64(bound.Took), "%v", bound.Took),
		c.Goroutines, limit(int64(bound.Goroutines), "%d", bound.Goroutines), c.Read>>10)
	if bound.Peak != 0 && c.Peak > bound.Peak {
		t.Errorf("resident memory rose by %d KiB, want at most %d", c.Peak>>10, bound.Peak>>10)
	}
	if bound.CPU != 0 && c.CPU > bound.CPU {
		t.Errorf("it took %v of a processor, want at most %v", c.CPU, bound.CPU)
	}
	if bound.Took != 0 && c.Took > bound.Took {
		t.Errorf("it took %v until the attacker was refused, want at most %v", c.Took, bound.Took)
	}
	if bound.Goroutines != 0 && c.Goroutines > bound.Goroutines {
		t.Errorf("%d more goroutines, want at most %d", c.Goroutines, bound.Goroutines)
	}
}

func limit(n int64, format string, v any) string {
	if n == 0 {
		return ""
	}
	return " ≤ " + fmt.Sprintf(format, v)
}

// settles waits until the process is as it was before an attack: no goroutine and no descriptor more.
func (v *victim) settles(before childStats, files int) {
	v.t.Helper()
	var s childStats
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if s = v.stats("gc"); s.Goroutines <= before.Goroutines && v.files() <= files {
			return
		}
	}
	v.t.Errorf("%d goroutines and %d descriptors are left, before there were %d and %d", s.Goroutines, v.files(), before.Goroutines, files)
}
