package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// disk is a file that is full at times, also in the middle of a line.
type disk struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	room int
}

func (d *disk) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := len(p), error(nil)
	if n > d.room {
		n, err = d.room, syscall.ENOSPC
	}
	d.room -= n
	d.buf.Write(p[:n])
	return n, err
}

func (d *disk) give(room int) {
	d.mu.Lock()
	d.room = room
	d.mu.Unlock()
}

func TestFullDiskIsAnErrorAndLosesNothing(t *testing.T) {
	p := newPlace(t)
	d := &disk{room: 100}
	l := p.open(t, d)
	acknowledged := 0
	for i := range 3 * halfBytes {
		if err := l.Append([]byte(`{"text":"0123456789"}`)); err == nil {
			acknowledged++
		} else if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		} else if i > halfBytes {
			break
		}
		d.give(7) // nothing fits, but bytes of it do
	}
	if err := l.Append([]byte("{}")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Append to a full disk: %v", err)
	}
	d.give(1 << 30)
	if err := l.Append([]byte("{}")); err != nil {
		t.Errorf("Append when there is room again: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.log, d.buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, _ := p.report(t); r.Fault != "" || r.Lines != uint64(acknowledged+1) {
		t.Errorf("%+v, want %d lines", r, acknowledged+1)
	}
}

// writeUntilKilled is the writer of TestKillLosesNothing: it prints the number of each
// line that was acknowledged.
func writeUntilKilled(dir string) {
	tail, err := os.OpenFile(filepath.Join(dir, "a.tail"), os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	out, err := os.OpenFile(filepath.Join(dir, "a.jsonl"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		panic(err)
	}
	l, err := OpenLog(out, tail)
	if err != nil {
		panic(err)
	}
	text := strings.Repeat("x", 200)
	for i := 1; ; i++ {
		if err := l.Append(fmt.Appendf(nil, `{"i":%d,"text":%q}`, i, text[:i%200])); err != nil {
			panic(err)
		}
		fmt.Println(i)
	}
}

// TestKillLosesNothing kills a writer by SIGKILL at many moments: every line that it
// was told is kept is there, in order, and verifies.
func TestKillLosesNothing(t *testing.T) {
	rounds, total := 20, 0
	for round := range rounds {
		p := newPlace(t)
		tail, err := CreateTail(p.tail, p.key.Chain("a.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		tail.Close()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "JOURNAL_TEST_WRITER="+p.dir)
		said, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acknowledged := uint64(0)
		lines := bufio.NewScanner(said)
		for lines.Scan() {
			n, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				break
			}
			if acknowledged = n; n == uint64(1+round*round*25) {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		if err := Settle(p.log, p.tail, done); err != nil {
			t.Fatal(err)
		}
		r, _ := p.report(t)
		if r.Fault != "" || r.Lines < acknowledged || r.Lines > acknowledged+1 || acknowledged == 0 {
			t.Errorf("round %d: %d lines, %q; %d were acknowledged", round, r.Lines, r.Fault, acknowledged)
		}
		total += int(acknowledged)
	}
	t.Logf("%d kills, %d lines acknowledged, 0 lost", rounds, total)
}

// TestSettleAfterEachInstant cuts a log at every byte of its last lines, as a kill in
// the middle of write(2) would, with the lines still in the tail.
func TestSettleAfterEachInstant(t *testing.T) {
	p := newPlace(t)
	l := p.open(t, nil)
	appendAll(t, l, 0, 3)
	mem := bytes.Clone(l.tail.mem)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	whole, _ := os.ReadFile(p.log)
	for cut := range len(whole) + 1 {
		if err := errors.Join(os.WriteFile(p.log, whole[:cut], 0o600), os.WriteFile(p.tail, mem, 0o600)); err != nil {
			t.Fatal(err)
		}
		r, err := OpenReader(p.log, p.tail)
		if err != nil {
			t.Fatal(err)
		}
		var seen []byte
		if err := r.Each(true, func(line []byte) error { seen = append(append(seen, line...), '\n'); return nil }); err != nil || !bytes.Equal(seen, whole) {
			t.Fatalf("cut at %d a reader sees %q, %v", cut, seen, err)
		}
		r.Close()
		if err := Settle(p.log, p.tail, done); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(p.log); !bytes.Equal(got, whole) {
			t.Fatalf("cut at %d: %q", cut, got)
		}
	}
	if err := Settle(p.log, p.tail, done); err != nil {
		t.Errorf("a second Settle: %v", err)
	}
}

func TestSettleWaitsForTheWritersDeath(t *testing.T) {
	p := newPlace(t)
	l := p.open(t, nil)
	appendAll(t, l, 0, 1)
	if err := Settle(p.log, p.tail, func() error { t.Error("a log was settled under its writer"); return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.tail); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Close(), Settle(p.log, p.tail, done)); err != nil {
		t.Fatal(err)
	}
	if r, _ := p.report(t); r.Lines != 1 || r.Fault != "" {
		t.Errorf("%+v", r)
	}
}
