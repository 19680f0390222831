package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/lease"
)

// maxCopies is how many copies of a value may lie in the daemon's memory after many
// uses: the one that live grants share, and one that is being written.
const maxCopies = 2

// TestValuesDoNotPileUp sets a value, has it resolved 500 times and counts it in the
// daemon's memory.
func TestValuesDoNotPileUp(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("root is missing")
		}
		t.Skip("root is missing")
	}
	dir := stateDir(t)
	cmd := start(t, dir)
	c := client.New(socketIn(dir))
	value := []byte("sk-ant-api03-" + strings.Repeat("MEMORY", 12))
	if _, err := c.Set(t.Context(), "my-agent", []api.Setting{{Name: "ANTHROPIC_API_KEY", Value: value}}); err != nil {
		t.Fatal(err)
	}
	afterSet := copies(t, cmd.Process.Pid, value)
	reply, file, err := c.Grant(t.Context(), api.GrantRequest{Agent: "my-agent", Run: "r", Secrets: []api.Wanted{{Name: "ANTHROPIC_API_KEY"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	l, err := lease.Open(conn, lease.Options{Lease: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 500 {
		if _, err := l.Resolve(t.Context(), api.ResolveRequest{
			Placeholder: reply.Entries[0].Placeholder, Host: "api.anthropic.com", Port: 443, Use: api.Use{Kind: api.UseBearer},
		}); err != nil {
			t.Fatal(err)
		}
	}
	afterUse := copies(t, cmd.Process.Pid, value)
	t.Logf("copies after set: %d, after 500 uses: %d", afterSet, afterUse)
	if afterSet > 0 || afterUse > maxCopies {
		t.Errorf("copies after set: %d, want 0; after 500 uses: %d, want at most %d", afterSet, afterUse, maxCopies)
	}
}

// copies counts needle in the writable memory of a process.
func copies(t *testing.T, pid int, needle []byte) int {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	found := 0
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		// Go's heap comes in arenas of 64 MiB; what is larger is the race detector's.
		if to-from > 256<<20 {
			continue
		}
		found += countIn(io.NewSectionReader(mem, from, to-from), needle)
	}
	return found
}

// countIn counts needle in what r has, up to the first page that cannot be read.
func countIn(r io.Reader, needle []byte) int {
	found, kept := 0, 0
	p := make([]byte, 1<<20)
	for {
		n, err := r.Read(p[kept:])
		found += bytes.Count(p[:kept+n], needle)
		if err != nil {
			return found
		}
		// A needle may lie across two reads: keep one byte less than it has.
		tail := min(kept+n, len(needle)-1)
		copy(p, p[kept+n-tail:kept+n])
		kept = tail
	}
}
