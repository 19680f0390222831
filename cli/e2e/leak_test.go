//go:build e2e

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// forms are the shapes in which a key can lie about: as it is, in base64 at each alignment and in hex.
func forms(key string) [][]byte {
	all := [][]byte{[]byte(key), fmt.Appendf(nil, "%x", key)}
	for shift := range 3 {
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + key))
		all = append(all, []byte(text[4:len(text)-4])) // the ends depend on the neighbours
	}
	return all
}

func holds(text []byte, key string) bool {
	for _, form := range forms(key) {
		if bytes.Contains(text, form) {
			return true
		}
	}
	return false
}

// wantClean fails when a text that the agent or its user can see holds a real key.
func (w *world) wantClean(t testing.TB, what, text string) {
	t.Helper()
	for name, key := range w.real {
		if holds([]byte(text), key) {
			t.Errorf("%s holds the real %s:\n%s", what, name, text)
		}
	}
}

// scanState fails when a file under the state folder holds a real key in clear.
func (w *world) scanState(t testing.TB) {
	t.Helper()
	err := filepath.WalkDir(w.state, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // gone meanwhile, a socket or a folder
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil
		}
		for secret, key := range w.real {
			if holds(text, key) {
				t.Errorf("%s holds the real %s", strings.TrimPrefix(name, w.state), secret)
			}
		}
		return nil
	})
	if err != nil {
		t.Errorf("scan the state: %v", err)
	}
}

// processes lists the ids of all processes.
func processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var ids []int
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// scanProcesses fails when the arguments or the environment of any process hold a real key.
func (w *world) scanProcesses(t testing.TB) {
	t.Helper()
	for _, id := range processes() {
		for _, name := range []string{"cmdline", "environ"} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", id, name))
			if err != nil {
				continue
			}
			for secret, key := range w.real {
				if holds(text, key) {
					t.Errorf("/proc/%d/%s holds the real %s", id, name, secret)
				}
			}
		}
	}
}

// commandLine returns a process's arguments, separated by blanks.
func commandLine(id int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", id))
	return strings.TrimSpace(strings.ReplaceAll(string(text), "\x00", " "))
}

// scanMemory returns the processes of superserve and gVisor, but for the proxy and secretd, whose memory
// holds the key; this test's own does too, since it is the upstream. scanned counts who was looked at.
func scanMemory(key string) (guilty []string, scanned int) {
	needle := []byte(key)
	for _, id := range processes() {
		line := commandLine(id)
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", id)) // not the line: a compiler of ours has our names in it
		if name := filepath.Base(exe); !strings.HasPrefix(name, "superserve") && !strings.HasPrefix(name, "runsc") {
			continue
		}
		if strings.Contains(line, "superserve proxy") {
			continue
		}
		scanned++
		if memoryHolds(id, needle) {
			guilty = append(guilty, fmt.Sprintf("%d %s", id, line))
		}
	}
	return guilty, scanned
}

// memoryHolds reports whether a process has the needle in its memory.
func memoryHolds(id int, needle []byte) bool { return copiesIn(id, needle) > 0 }

// copiesIn counts the needle in the readable pages that a process has in memory; one that lies across two
// stretches of pages is not seen. Pages that are not there are left alone: reading them would bring in the
// gigabytes that gVisor reserves.
func copiesIn(id int, needle []byte) (found int) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", id))
	if err != nil {
		return found
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", id))
	if err != nil {
		return found
	}
	defer mem.Close()
	pages, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", id))
	if err != nil {
		return found
	}
	defer pages.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n == 3 && mode[0] == 'r' {
			found += copiesInRegion(mem, pages, from, to, needle)
		}
	}
	return found
}

// copiesInRegion looks through one mapping, a stretch of present pages at a time. A word of pagemap says in
// its top two bits that the page is in memory or swapped (Documentation/admin-guide/mm/pagemap.rst).
func copiesInRegion(mem, pages io.ReaderAt, from, to uint64, needle []byte) (found int) {
	const page, batch = 4096, 512
	words := make([]byte, 8*batch)
	text := make([]byte, page*batch)
	for ; from < to; from += page * batch {
		n := min(batch, (to-from)/page)
		if _, err := pages.ReadAt(words[:8*n], int64(from/page*8)); err != nil {
			return found
		}
		present := false
		for i := range n {
			present = present || binary.NativeEndian.Uint64(words[8*i:])>>62 != 0
		}
		if !present {
			continue
		}
		found += bytes.Count(readPresent(mem, text[:page*n], words, from), needle)
	}
	return found
}

// readPresent fills text with the pages that are there, zeroes for the others.
func readPresent(mem io.ReaderAt, text, words []byte, from uint64) []byte {
	const page = 4096
	for i := range len(text) / page {
		part := text[i*page : (i+1)*page]
		clear(part)
		if binary.NativeEndian.Uint64(words[8*i:])>>62 != 0 {
			mem.ReadAt(part, int64(from)+int64(i*page))
		}
	}
	return text
}
