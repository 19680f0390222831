package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/lease"
)

// forms are the ways in which a value could lie about: as it is, in base64 at each of
// its three alignments, hex, percent, JSON escapes and UTF-16.
func forms(value []byte) map[string][]byte {
	all := map[string][]byte{
		"itself": value,
		"hex":    []byte(hex.EncodeToString(value)),
		"HEX":    []byte(strings.ToUpper(hex.EncodeToString(value))),
	}
	for shift := range 3 {
		text := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), value...))
		all[fmt.Sprintf("base64 at %d", shift)] = []byte(text[4*((shift+2)/3) : len(text)-len(text)%4-4])
	}
	var percent, escaped, wide []byte
	for _, b := range value {
		percent = fmt.Appendf(percent, "%%%02x", b)
		escaped = fmt.Appendf(escaped, `\u%04x`, b)
		wide = append(wide, b, 0)
	}
	all["percent"], all["JSON escapes"], all["UTF-16"] = percent, escaped, wide
	return all
}

// busy is a secretd under load and all values that it ever had.
type busy struct {
	t      *testing.T
	cmd    *exec.Cmd
	dir    string
	client *client.Client
	values [][]byte
}

// TestNothingLeaks keeps secretd busy, with mistakes among the requests, and then looks
// for every value it ever had, in every form, in all that it wrote and in its memory.
func TestNothingLeaks(t *testing.T) {
	needDisks(t)
	b := &busy{t: t, dir: stateDir(t)}
	b.cmd = command(t, "--state", b.dir, "--socket", socketIn(b.dir))
	said := &lockedBuffer{}
	out, err := b.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.cmd.Process.Kill() })
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(said, out)
	}()
	b.client = client.New(socketIn(b.dir))
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if _, err := b.client.Health(t.Context()); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(time.Duration(min(times(t), 60)) * time.Second); time.Now().Before(end); {
		b.round()
	}
	t.Logf("%d values", len(b.values))
	b.forgotten()
	b.proc()
	b.endpoints()
	// Every goroutine's stack, as a crash prints it.
	if err := b.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-read
	_ = b.cmd.Wait()
	if !bytes.Contains(said.bytes(), []byte("goroutine ")) {
		t.Error("SIGQUIT printed no stacks: the test looks at the wrong thing")
	}
	b.absent("its log and stacks", said.bytes())
	b.files()
}

// round sets, rotates, grants, resolves and deletes, and does each wrongly too.
func (b *busy) round() {
	ctx, t := b.t.Context(), b.t
	t.Helper()
	value := func() []byte {
		v := fmt.Appendf(nil, "sk-ant-api03-%06d-%s", len(b.values), strings.Repeat("LEAK", 12))
		b.values = append(b.values, v)
		return v
	}
	set := func(agent, name string, v []byte) error {
		_, err := b.client.Set(ctx, agent, []api.Setting{{Name: name, Value: bytes.Clone(v)}})
		return err
	}
	if err := set("my-agent", "ANTHROPIC_API_KEY", value()); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []error{
		set("my-agent", "not a name", value()), set("../x", "KEY", value()), set("my-agent", "KEY", append(value(), 0)),
	} {
		if wrong == nil {
			t.Fatal("took a wrong request")
		}
		if strings.Contains(wrong.Error(), "LEAK") {
			t.Errorf("the error has the value: %v", wrong)
		}
	}
	b.post(append([]byte(`{"settings":[{"name":"KEY","value":"`), value()...)) // JSON without an end
	reply, file, err := b.client.Grant(ctx, api.GrantRequest{Agent: "my-agent", Run: "r", Secrets: []api.Wanted{{Name: "ANTHROPIC_API_KEY"}}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	l, err := lease.Open(conn, lease.Options{Lease: -1})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 50 {
		r := api.ResolveRequest{Placeholder: reply.Entries[0].Placeholder, Host: "api.anthropic.com", Port: 443, Use: api.Use{Kind: api.UseBearer}}
		if n%5 == 4 {
			r.Host = "evil.example"
		}
		if _, err := l.Resolve(ctx, r); (err == nil) != (r.Host == "api.anthropic.com") {
			t.Fatalf("resolve for %s: %v", r.Host, err)
		}
		if n == 25 {
			if err := set("my-agent", "ANTHROPIC_API_KEY", value()); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.memory("in a run", maxCopies)
	l.Close()
	b.idle()
}

// idle waits until secretd has noticed that the run ended.
func (b *busy) idle() {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if h, err := b.client.Health(b.t.Context()); err == nil && h.Grants == 0 {
			return
		}
	}
	b.t.Fatal("the grant does not end")
}

// post sends a body that the client would not.
func (b *busy) post(body []byte) {
	b.t.Helper()
	req, err := http.NewRequest(http.MethodPut, "http://secretd/v1/agents/my-agent/secrets", bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set(api.VersionHeader, fmt.Sprint(api.Version))
	b.absent("the answer to a wrong request", b.raw(req, http.StatusBadRequest))
}

func (b *busy) raw(req *http.Request, status int) []byte {
	b.t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", socketIn(b.dir)) }}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		b.t.Errorf("%s: status %d, %v; want %d", req.URL, resp.StatusCode, err, status)
	}
	return answer
}

// endpoints asks for what a careless import of net/http/pprof or expvar would serve.
func (b *busy) endpoints() {
	b.t.Helper()
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/metrics", "/v1/agents/my-agent/secrets/ANTHROPIC_API_KEY"} {
		req, err := http.NewRequest(http.MethodGet, "http://secretd"+path, nil)
		if err != nil {
			b.t.Fatal(err)
		}
		req.Header.Set(api.VersionHeader, fmt.Sprint(api.Version))
		b.absent(path, b.raw(req, http.StatusBadRequest))
	}
}

// memory counts the values in the daemon's memory. The wanted number is of copies of
// all values together.
func (b *busy) memory(when string, most int) {
	b.t.Helper()
	found := copies(b.t, b.cmd.Process.Pid, []byte(strings.Repeat("LEAK", 12)))
	coded := copies(b.t, b.cmd.Process.Pid, []byte(strings.Repeat("TEVBS0xFQUtMRUFL", 3)))
	if found > most || coded > 0 {
		b.t.Errorf("%s: %d copies of values and %d in base64 in its memory; want at most %d and 0", when, found, coded, most)
	}
}

// forgotten waits until no value is in the daemon's memory any more: the collector wipes
// them when the last run that held them has ended.
func (b *busy) forgotten() {
	b.t.Helper()
	needle, found := []byte(strings.Repeat("LEAK", 12)), 0
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if found = copies(b.t, b.cmd.Process.Pid, needle); found == 0 {
			return
		}
	}
	b.t.Errorf("after the runs: %d copies of values in its memory", found)
}

// proc looks at what the kernel shows of the process.
func (b *busy) proc() {
	b.t.Helper()
	for _, name := range []string{"cmdline", "environ", "comm", "status", "maps", "mountinfo"} {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", b.cmd.Process.Pid, name))
		if err != nil {
			b.t.Error(err)
		}
		b.absent(name, content)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.cmd.Process.Pid))
	if err != nil {
		b.t.Error(err)
	}
	for _, fd := range fds {
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", b.cmd.Process.Pid, fd.Name()))
		b.absent("a descriptor's name", []byte(target))
	}
}

// files looks at every file under the state directory.
func (b *busy) files() {
	b.t.Helper()
	seen := 0
	err := filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		seen++
		b.absent(path, content)
		return err
	})
	if err != nil || seen < 5 {
		b.t.Errorf("looked at %d files, %v", seen, err)
	}
	if cores, _ := filepath.Glob(filepath.Join(b.dir, "core*")); len(cores) > 0 {
		b.t.Errorf("left %v", cores)
	}
}

// absent looks for what all values have in common, in all forms.
func (b *busy) absent(where string, content []byte) {
	b.t.Helper()
	for form, needle := range forms([]byte(strings.Repeat("LEAK", 12))) {
		if bytes.Contains(content, needle) {
			b.t.Errorf("%s has a value as %s", where, form)
		}
	}
}

// lockedBuffer is a bytes.Buffer for one writer and one reader at once.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

// TestNoDumpOfTheSameUser runs secretd and a debugger as one user without privilege:
// neither /proc nor ptrace gives that user the memory.
func TestNoDumpOfTheSameUser(t *testing.T) {
	needDisks(t, "cat", "gdb")
	const nobody = 65534
	dir := stateDir(t)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	cmd := command(t, "--state", dir, "--socket", socketIn(dir))
	cmd.Path, cmd.SysProcAttr = "/proc/self/exe", as
	serving(t, cmd)
	pid := fmt.Sprint(cmd.Process.Pid)
	for _, try := range [][]string{
		{"cat", "/proc/" + pid + "/mem"}, {"cat", "/proc/" + pid + "/environ"}, {"cat", "/proc/" + pid + "/maps"},
		{"gdb", "-batch", "-nx", "-p", pid, "-ex", "generate-core-file " + filepath.Join(dir, "core.of-gdb")},
	} {
		c := exec.Command(try[0], try[1:]...)
		c.SysProcAttr, c.Dir = as, dir
		out, err := c.CombinedOutput()
		text := strings.ToLower(string(out))
		if err == nil && try[0] != "gdb" || !strings.Contains(text, "permission denied") && !strings.Contains(text, "not permitted") {
			t.Errorf("%q: %v, %s", try, err, out)
		}
	}
	// A crash leaves no core either, whatever core_pattern says.
	if err := cmd.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.CoreDump() {
		t.Errorf("ended by %v", cmd.ProcessState)
	}
	if cores, _ := filepath.Glob(filepath.Join(dir, "core*")); len(cores) > 0 {
		t.Errorf("left %v", cores)
	}
}
