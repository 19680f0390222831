package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/lease"
)

// stolen is the proxy of a run in the hands of an attacker, who knows all placeholders of
// every run and asks for each of them in every way.
type stolen struct {
	*lease.Lease
	file  *os.File
	reply api.GrantReply
}

func steal(t *testing.T, c *client.Client, agent, run string, names ...string) *stolen {
	t.Helper()
	var wanted []api.Wanted
	for _, n := range names {
		wanted = append(wanted, api.Wanted{Name: n})
	}
	reply, file, err := c.Grant(t.Context(), api.GrantRequest{Agent: agent, Run: run, Secrets: wanted})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lease.Open(conn, lease.Options{Lease: -1})
	if err != nil {
		t.Fatal(err)
	}
	s := &stolen{l, file, reply}
	t.Cleanup(s.end)
	return s
}

func (s *stolen) end() {
	s.Close()
	s.file.Close()
}

// gets asks for placeholders at hosts, in each use, and returns the values that came.
func (s *stolen) gets(t *testing.T, placeholders []string, hosts []api.Host) []string {
	t.Helper()
	got := map[string]bool{}
	for _, p := range placeholders {
		for _, h := range hosts {
			for _, use := range []api.Use{{Kind: api.UseBearer}, {Kind: api.UseHeader, Arg: "x-api-key"}, {Kind: api.UseBasic}} {
				v, err := s.Resolve(context.Background(), api.ResolveRequest{Placeholder: p, Host: h, Port: 443, Use: use})
				if err == nil {
					got[string(v())] = true
				}
			}
		}
	}
	return slices.Sorted(func(yield func(string) bool) {
		for v := range got {
			if !yield(v) {
				return
			}
		}
	})
}

// TestAuthority has the proxy of one run try to get what others were granted: what it gets
// is exactly its own, at the hosts that they are bound to.
func TestAuthority(t *testing.T) {
	dir := stateDir(t)
	start(t, dir)
	c := client.New(socketIn(dir))
	values := map[string][]string{} // by agent
	var names []string
	for i := range 8 {
		names = append(names, fmt.Sprintf("KEY_%d", i))
	}
	for _, agent := range []string{"one", "two"} {
		for i, name := range names {
			p, err := api.ParsePattern(fmt.Sprintf("h%d.example.com", i%2))
			if err != nil {
				t.Fatal(err)
			}
			v := fmt.Sprintf("the %s of agent %s", name, agent)
			values[agent] = append(values[agent], v)
			if _, err := c.Set(t.Context(), agent, []api.Setting{{Name: name, Value: []byte(v), Binding: &api.Binding{Hosts: []api.Pattern{p}}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	a, sibling, b := steal(t, c, "one", "a", names[:4]...), steal(t, c, "one", "b", names...), steal(t, c, "two", "c", names...)
	var all []string
	for _, s := range []*stolen{a, sibling, b} {
		for _, e := range s.reply.Entries {
			all = append(all, e.Placeholder, e.Name, e.Placeholder+" ", strings.ToUpper(e.Placeholder))
		}
	}
	all = append(all, "", a.reply.Resume, b.reply.Resume, strings.Repeat("x", 4096))
	hosts := []api.Host{"h0.example.com", "h1.example.com", "example.com", "evil.example"}
	for name, tt := range map[string]struct {
		by   *stolen
		want []string
	}{
		"some of its agent's": {a, values["one"][:4]}, "all of its agent's": {sibling, values["one"]}, "the other agent's": {b, values["two"]},
	} {
		if got := tt.by.gets(t, all, hosts); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q; want %q", name, got, tt.want)
		}
	}
	if got := a.gets(t, all, hosts[2:]); len(got) > 0 {
		t.Errorf("at hosts that nothing is bound to: got %q", got)
	}

	t.Run("the descriptor is the authority, whoever has it", func(t *testing.T) { passOn(t, c, names[0]) })
	t.Run("who asked for it is none", func(t *testing.T) {
		// This very process, as root, has asked for all the grants.
		for _, token := range []string{strings.Repeat("0", 64), b.reply.Resume[:62] + "00"} {
			if _, err := c.Resume(t.Context(), token); !errors.Is(err, api.ErrUnknown) {
				t.Errorf("got %v; want ErrUnknown", err)
			}
		}
		if _, err := c.Resume(t.Context(), b.reply.Resume); !errors.Is(err, api.ErrDenied) {
			t.Errorf("a second channel beside the first: %v; want ErrDenied", err)
		}
	})
	t.Run("a process that takes a dead one's number has nothing of it", func(t *testing.T) { reusePID(t, dir) })
}

// passOn gives a grant's descriptor to a process of nobody's, which resolves by it, and an
// admin connection, with which it gets no value.
func passOn(t *testing.T, c *client.Client, name string) {
	reply, file, err := c.Grant(t.Context(), api.GrantRequest{Agent: "one", Run: "passed", Secrets: []api.Wanted{{Name: name}}})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	admin, err := net.Dial("unix", c.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	raw, err := admin.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"SECRETD_NOBODY=" + reply.Entries[0].Placeholder}
	cmd.ExtraFiles = []*os.File{file, raw}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "the KEY_0 of agent one\n") {
		t.Fatalf("%v: %s", err, out)
	}
	if rest := string(out[len("the KEY_0 of agent one\n"):]); !strings.Contains(rest, " 200 ") || strings.Contains(rest, "of agent") {
		t.Errorf("by the admin connection it got %q", rest)
	}
}

// nobody is the process that passOn starts.
func nobody() int {
	conn, err := net.FileConn(os.NewFile(3, "grant"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	l, err := lease.Open(conn, lease.Options{Lease: -1})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	v, err := l.Resolve(context.Background(), api.ResolveRequest{
		Placeholder: os.Getenv("SECRETD_NOBODY"), Host: "h0.example.com", Port: 443, Use: api.Use{Kind: api.UseBearer},
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(string(v()))
	// The kernel still says that root is at this end.
	admin := os.NewFile(4, "admin")
	fmt.Fprintf(admin, "GET /v1/agents/one/secrets HTTP/1.1\r\nHost: secretd\r\n%s: %d\r\n\r\n", api.VersionHeader, api.Version)
	answer := make([]byte, 64<<10)
	n, _ := admin.Read(answer)
	fmt.Print(string(answer[:n]))
	return 0
}

// reusePID has a process ask for a grant and end, and another get its number.
func reusePID(t *testing.T, dir string) {
	script := `"$0" asker & asker=$!; wait $asker; echo $((asker-1)) > /proc/sys/kernel/ns_last_pid; "$0" $asker & wait $!`
	cmd := exec.Command("unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script, os.Args[0])
	cmd.Env = []string{"SECRETD_REUSE=" + socketIn(dir), "PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the same number; refused") {
		t.Fatalf("%v: %s", err, out)
	}
}

// reuse is both processes that reusePID starts.
func reuse(socket string) int {
	c := client.New(socket)
	if os.Args[1] == "asker" {
		_, _, err := c.Grant(context.Background(), api.GrantRequest{Agent: "one", Run: "reused", Secrets: []api.Wanted{{Name: "KEY_0"}}})
		if err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	}
	if os.Args[1] != strconv.Itoa(os.Getpid()) {
		fmt.Printf("has the number %d, not %s\n", os.Getpid(), os.Args[1])
		return 1
	}
	if _, err := c.Resume(context.Background(), strings.Repeat("0", 64)); errors.Is(err, api.ErrUnknown) {
		fmt.Println("the same number; refused")
		return 0
	}
	return 1
}

// connections is how many a siege opens.
const connections = 10_000

// TestNeighbours opens 10,000 connections and keeps them, sends slow and giant frames on
// channels of runs, and looks at what that does to another run: each of its uses is
// answered. The ratio of its p99 is printed; the daemon's memory is bounded.
func TestNeighbours(t *testing.T) {
	dir := stateDir(t)
	cmd := start(t, dir)
	c := client.New(socketIn(dir))
	if _, err := c.Set(t.Context(), "my-agent", []api.Setting{{Name: "ANTHROPIC_API_KEY", Value: []byte(realKey)}}); err != nil {
		t.Fatal(err)
	}
	neighbour := steal(t, c, "my-agent", "neighbour", "ANTHROPIC_API_KEY")
	request := api.ResolveRequest{Placeholder: neighbour.reply.Entries[0].Placeholder, Host: "api.anthropic.com", Port: 443, Use: api.Use{Kind: api.UseBearer}}
	p99 := func() time.Duration {
		const n = 3000
		took := make([]time.Duration, n)
		for i := range took {
			began := time.Now()
			if _, err := neighbour.Resolve(context.Background(), request); err != nil {
				t.Fatal(err)
			}
			took[i] = time.Since(began)
		}
		slices.Sort(took)
		return took[n*99/100]
	}
	p99()
	alone, memory := p99(), residentKiB(t, cmd.Process.Pid)
	opened := besiege(t, c)
	if opened < connections*9/10 {
		t.Errorf("only %d of %d connections were opened: there was no siege", opened, connections)
	}
	besieged := p99()
	t.Logf("p99 of a use: alone %v, beside %d open connections and 32 channels with slow and giant frames %v: ratio %.2f", alone, opened, besieged, float64(besieged)/float64(alone))
	if now := residentKiB(t, cmd.Process.Pid); now > memory+48<<10 {
		t.Errorf("secretd has %d KiB, %d before", now, memory)
	}
	if _, err := neighbour.Resolve(context.Background(), request); err != nil {
		t.Errorf("in the end: %v", err)
	}
}

// besiege opens connections to both sockets, which say half a word or nothing, and sends
// frames on channels that were granted. All are closed when the test ends.
func besiege(t *testing.T, c *client.Client) (opened int) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < connections+1000 {
		limit.Cur, limit.Max = connections+1000, max(limit.Max, connections+1000)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatalf("raise the limit of descriptors: %v", err)
		}
	}
	var open []net.Conn
	t.Cleanup(func() {
		for _, conn := range open {
			conn.Close()
		}
	})
	for i := range 32 {
		s := steal(t, c, "my-agent", fmt.Sprintf("hostile-%d", i), "ANTHROPIC_API_KEY")
		conn, err := net.FileConn(s.file)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
		frame := binary.BigEndian.AppendUint32(nil, 128<<10)
		if i%2 == 0 {
			frame = binary.BigEndian.AppendUint32(nil, 1<<31)
		}
		_, _ = conn.Write(append(frame, bytes.Repeat([]byte{1}, 100)...))
	}
	for i := range connections {
		path := c.Socket()
		if i%2 == 1 {
			path = api.ResumeSocket(path)
		}
		conn, err := net.Dial("unix", path)
		for deadline := time.Now().Add(time.Minute); errors.Is(err, syscall.EAGAIN) && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			conn, err = net.Dial("unix", path) // its queue was full: it is being besieged
		}
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
		opened++
		if i%3 == 0 {
			_, _ = conn.Write([]byte("PUT /v1/agents/my-agent/secrets HTTP/1.1\r\nContent-Length: 20000000\r\n"))
		}
	}
	return opened
}

func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
