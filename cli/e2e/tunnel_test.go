//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tunnel is a tool that carries connections in names, its server at work on the host: it would serve whoever's
// question arrives.
type tunnel struct {
	server []string // is started on the host
	client []string // is tried on the host, where it must work, and in a sandbox, where it must not
	works  string   // what the client says when it does
}

// tunnelDomain is the zone that the servers claim.
const tunnelDomain = "t.example.net"

// TestTunnelsThroughNames runs the tunnels that people use, as Debian has them. Outside of a sandbox the client
// reaches its server on the host. Inside it gets no answer, whether it asks the resolver that it is given or
// the server itself, and no question leaves.
func TestTunnelsThroughNames(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "dns2tcpd.conf")
	text := "listen = 10.99.0.1\nport = 53\nuser = nobody\nchroot = /tmp\ndomain = " + tunnelDomain + "\nresources = way-out:127.0.0.1:9\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tool := range map[string]tunnel{
		"dns2tcp": {
			server: []string{"dns2tcpd", "-F", "-f", conf},
			client: []string{"dns2tcpc", "-z", tunnelDomain, "10.99.0.1"},
			works:  "way-out",
		},
		"iodine": {
			server: []string{"iodined", "-f", "-c", "-P", "password", "10.53.0.1", tunnelDomain},
			client: []string{"iodine", "-f", "-r", "-P", "password", "10.99.0.1", tunnelDomain},
			works:  "Connection setup complete",
		},
	} {
		t.Run(name, func(t *testing.T) { tool.try(t) })
	}
}

func (tool tunnel) try(t *testing.T) {
	client := find(t, tool.client[0])
	control := newArena(t, "")
	said := tool.serve(t, control)
	got := ""
	for range 5 { // the server may not listen yet
		if got = tool.outside(control, client); strings.Contains(got, tool.works) {
			break
		}
	}
	if !strings.Contains(got, tool.works) {
		t.Fatalf("outside of a sandbox it does not work either: %s\nserver: %s", got, said)
	}
	a := newArena(t, "")                                      // a host without packets of the server's own
	c := listenIn(t, a.host.ns, leaves("\x07example\x03net")) // as names are in packets (RFC 1035, 3.1)
	var runs []*captive
	for _, args := range tool.inside(client) {
		runs = append(runs, a.start(t, nil, args...))
	}
	for _, run := range runs {
		run.stdin.Close()
		if got := strings.Join(run.rest(), "\n") + run.stderr.String(); strings.Contains(got, tool.works) {
			t.Errorf("%v got through: %s", run.cmd.Args, got)
		}
	}
	c.wantNone(t, "on the host")
}

// serve starts the server on the arena's host.
func (tool tunnel) serve(t *testing.T, a *arena) *synced {
	t.Helper()
	cmd := exec.Command(find(t, tool.server[0]), tool.server[1:]...)
	said := &synced{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := a.host.start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return said
}

// outside runs the client on the host until it works or gives up.
func (tool tunnel) outside(a *arena, client string) string {
	cmd := exec.Command("timeout", append([]string{"-k1", "60", client}, tool.client[1:]...)...)
	said := &synced{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := a.host.start(cmd); err != nil {
		return err.Error()
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	for !strings.Contains(said.String(), tool.works) {
		select {
		case <-ended:
			return said.String()
		case <-time.After(10 * time.Millisecond):
		}
	}
	cmd.Process.Signal(syscall.SIGTERM) // timeout(1) passes it on
	<-ended
	return said.String()
}

// inside lists the arguments of the probe: the client as the agent and as root, asking the server itself and
// the resolver that the sandbox has.
func (tool tunnel) inside(client string) (all [][]string) {
	server := len(tool.client) - 1
	for i, arg := range tool.client {
		if arg == "10.99.0.1" {
			server = i
		}
	}
	direct := append([]string{"exec", "/usr/bin/timeout", "-k1", "3", client}, tool.client[1:]...)
	asked := append([]string{"exec", "/usr/bin/timeout", "-k1", "3", client}, tool.client[1:server]...)
	asked = append(asked, tool.client[server+1:]...)
	for _, args := range [][]string{direct, asked} {
		all = append(all, args, append([]string{"root"}, args...))
	}
	return all
}

// find wants a tool of Debian's.
func find(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"/usr/bin", "/usr/sbin"} {
		if full := filepath.Join(dir, name); exists(full) {
			return full
		}
	}
	text := fmt.Sprintf("%s is not installed: scripts/setup test", name)
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
	return ""
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
