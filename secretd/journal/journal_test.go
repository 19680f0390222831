package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("JOURNAL_TEST_WRITER"); dir != "" {
		writeUntilKilled(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// place is a directory with a key and one log.
type place struct {
	dir, log, tail string
	key            *Key
}

func newPlace(t testing.TB) place {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "audit")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := OpenKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	return place{dir: dir, log: filepath.Join(dir, "a.jsonl"), tail: filepath.Join(dir, "a.tail"), key: key}
}

// open makes the log's files as a supervisor does; out replaces the file if it is not nil.
func (p place) open(t testing.TB, out io.Writer) *Log {
	t.Helper()
	tail, err := CreateTail(p.tail, p.key.Chain("a.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if out == nil {
		f, err := os.OpenFile(p.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		out = f
	}
	l, err := OpenLog(out, tail)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (p place) report(t testing.TB) (Report, Findings) {
	t.Helper()
	found, err := Verify(p.dir, p.key, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Logs) != 1 {
		t.Fatalf("%d logs, want 1", len(found.Logs))
	}
	return found.Logs[0], found
}

func done() error { return nil }

func appendAll(t testing.TB, l *Log, from, n int) {
	t.Helper()
	for i := range n {
		if err := l.Append(fmt.Appendf(nil, `{"i":%d}`, from+i)); err != nil {
			t.Fatal(err)
		}
	}
}

// sealed writes ten lines under three seals and returns the place.
func sealed(t testing.TB) place {
	t.Helper()
	p := newPlace(t)
	l := p.open(t, nil)
	s := NewSealer(p.key, p.log, "agent")
	for i := range 3 {
		appendAll(t, l, 4*i, []int{4, 4, 2}[i])
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := s.Seal(i == 2); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.Close(), Settle(p.log, p.tail, done)); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestLog(t *testing.T) {
	p := sealed(t)
	r, found := p.report(t)
	if want := (Report{Log: "a.jsonl", Agent: "agent", Lines: 10, Sealed: 10, Seals: 3, Ended: true}); r != want || !found.Good() {
		t.Errorf("%+v, want %+v; list: %q", r, want, found.Fault)
	}
	text, _ := os.ReadFile(p.log)
	if first, _, _ := bytes.Cut(text, []byte("\n")); !strings.HasPrefix(string(first), `{"i":0,"seq":1,"tag":"`) {
		t.Errorf("first line %q", first)
	}
	if has, err := Has(p.dir, p.key, found.Head); !has || err != nil {
		t.Errorf("Has: %v, %v", has, err)
	}
	if has, _ := Has(p.dir, p.key, strings.Repeat("0", 32)); has {
		t.Error("the list has a head that never was")
	}
	if _, err := os.Stat(p.tail); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the tail is left: %v", err)
	}
}

// TestVerifySeesEveryChange is the claim of the package: a change, a cut, a reorder.
func TestVerifySeesEveryChange(t *testing.T) {
	type files struct{ log, seals []byte }
	swap := func(p []byte, a, b int) []byte {
		l := bytes.SplitAfter(p, []byte("\n"))
		l[a], l[b] = l[b], l[a]
		return bytes.Join(l, nil)
	}
	without := func(p []byte, i, j int) []byte {
		l := bytes.SplitAfter(p, []byte("\n"))
		return bytes.Join(append(l[:i:i], l[j:]...), nil)
	}
	for _, c := range []struct {
		name   string
		change func(*files)
		want   string
	}{
		{"a changed value", func(f *files) { f.log = bytes.Replace(f.log, []byte(`"i":3`), []byte(`"i":4`), 1) }, "line 4 was changed"},
		{"an added field", func(f *files) { f.log = bytes.Replace(f.log, []byte(`"i":3`), []byte(`"i":3,"x":1`), 1) }, "line 4 was changed"},
		{"a changed tag", func(f *files) { f.log[len(f.log)-5] ^= 1 }, "line 10 was changed"},
		{"two lines exchanged", func(f *files) { f.log = swap(f.log, 2, 3) }, "line 4 stands where line 3 should be"},
		{"a line taken out", func(f *files) { f.log = without(f.log, 4, 5) }, "line 6 stands where line 5 should be"},
		{"a line put in twice", func(f *files) {
			f.log = append(f.log, bytes.SplitAfter(f.log, []byte("\n"))[9]...)
		}, "line 10 stands where line 11 should be"},
		{"no first line", func(f *files) { f.log = without(f.log, 0, 1) }, "line 2 stands where line 1 should be"},
		{"the last line cut off", func(f *files) { f.log = without(f.log, 9, 10) }, "the end was cut off: 9 lines are left of 10"},
		{"half of it cut off", func(f *files) { f.log = f.log[:len(f.log)/2] }, "cut off"},
		{"all of it cut off", func(f *files) { f.log = nil }, "0 lines are left of 10"},
		{"bytes at the end", func(f *files) { f.log = append(f.log, "{}\n"...) }, "line 11 was changed"},
		{"the last two seals cut off with their lines", func(f *files) { f.log, f.seals = without(f.log, 5, 10), without(f.seals, 1, 3) }, ""},
		{"a seal cut out", func(f *files) { f.seals = without(f.seals, 1, 2) }, "list: seal 2"},
		{"two seals exchanged", func(f *files) { f.seals = swap(f.seals, 0, 1) }, "list: seal 1"},
		{"a changed seal", func(f *files) { f.seals = bytes.Replace(f.seals, []byte(`"lines":8`), []byte(`"lines":7`), 1) }, "list: seal 2"},
		{"a forged signature", func(f *files) { f.seals[len(f.seals)-10] ^= 1 }, "list: seal 3"},
	} {
		t.Run("it sees "+c.name, func(t *testing.T) {
			p := sealed(t)
			_, before := p.report(t)
			var f files
			list := filepath.Join(p.dir, SealsFile)
			f.log, _ = os.ReadFile(p.log)
			f.seals, _ = os.ReadFile(list)
			c.change(&f)
			if err := errors.Join(os.WriteFile(p.log, f.log, 0o600), os.WriteFile(list, f.seals, 0o600)); err != nil {
				t.Fatal(err)
			}
			r, found := p.report(t)
			switch {
			case c.want == "":
				// Cut together to an older state: only a head that was kept elsewhere tells.
				if has, err := Has(p.dir, p.key, before.Head); has || err != nil || r.Ended {
					t.Errorf("Has(the head before) = %v, %v; report %+v", has, err, r)
				}
			case !strings.Contains(r.Fault+"list: "+found.Fault, c.want) || found.Good():
				t.Errorf("fault %q, list %q; want %q", r.Fault, found.Fault, c.want)
			}
		})
	}
}

func TestVerifySeesALogThatIsGone(t *testing.T) {
	p := sealed(t)
	os.Remove(p.log)
	if r, _ := p.report(t); !strings.Contains(r.Fault, "gone; it had 10 lines") {
		t.Errorf("fault %q", r.Fault)
	}
}

func TestVerifySeesALogUnderAnotherName(t *testing.T) {
	p := sealed(t)
	text, _ := os.ReadFile(p.log)
	if err := os.WriteFile(filepath.Join(p.dir, "b.jsonl"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := Verify(p.dir, p.key, func(log, _ string) bool { return log == "b.jsonl" })
	if err != nil || len(found.Logs) != 1 || found.Logs[0].Fault == "" {
		t.Errorf("%+v, %v", found, err)
	}
}

// TestKeyOfALineOpensNoneBefore: the writer's state after n lines makes tags for what
// follows, and for no line that it has written.
func TestKeyOfALineOpensNoneBefore(t *testing.T) {
	p := newPlace(t)
	l := p.open(t, nil)
	appendAll(t, l, 0, 5)
	stolen := l.chain.key
	if bytes.Contains(l.tail.mem[:tailHead], stolen[:]) || bytes.Contains(l.chain.buf[:block], stolen[:8]) {
		t.Error("a key lies about")
	}
	first := p.key.Chain("a.jsonl")
	if bytes.Contains(l.tail.mem, first[:]) {
		t.Error("the first key is still in the tail")
	}
	l.Close()
	text, _ := os.ReadFile(p.log)
	n := 0
	for line := range lines(text) {
		forger := &chain{key: stolen, seq: uint64(n)}
		forged, err := forger.next(fmt.Appendf(nil, `{"i":%d}`, n))
		if err != nil || bytes.Equal(forged, line) {
			t.Errorf("line %d can be made again", n+1)
		}
		n++
	}
	forger := &chain{key: stolen, seq: 5}
	last, _ := forger.next([]byte(`{"i":5}`))
	if err := os.WriteFile(p.log, append(text, last...), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, _ := p.report(t); r.Lines != 6 || r.Fault != "" {
		t.Errorf("%+v: the next line is not the holder's", r)
	}
}

func TestAppendFromMany(t *testing.T) {
	p := newPlace(t)
	l := p.open(t, nil)
	const writers, each = 8, 5000 // several times the tail
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for i := range each {
				if err := l.Append(fmt.Appendf(nil, `{"i":%d,"text":%q}`, i, strings.Repeat("x", i%97))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if r, _ := p.report(t); r.Lines != writers*each || r.Fault != "" {
		t.Errorf("%+v, want %d lines", r, writers*each)
	}
	if err := l.Append([]byte("{}")); !errors.Is(err, ErrClosed) {
		t.Errorf("Append after Close: %v", err)
	}
}

func TestAppendRefuses(t *testing.T) {
	l := newPlace(t).open(t, nil)
	for _, object := range []string{"", "{", "x}", "{\n}", "{" + strings.Repeat(" ", MaxLine) + "}"} {
		if err := l.Append([]byte(object)); err == nil {
			t.Errorf("Append takes %.20q", object)
		}
	}
	appendAll(t, l, 0, 1)
}

func TestReaderFollows(t *testing.T) {
	p := newPlace(t)
	l := p.open(t, nil)
	r, err := OpenReader(p.log, p.tail)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	seen := 0
	for i := range 3 {
		appendAll(t, l, i, 1)
		l.Flush()
		if err := r.Each(false, func([]byte) error { seen++; return nil }); err != nil || seen != i+1 {
			t.Fatalf("%d lines, %v", seen, err)
		}
	}
}

func TestSealOfSecretdsLog(t *testing.T) {
	p := newPlace(t)
	path, list := filepath.Join(t.TempDir(), "audit.log"), filepath.Join(p.dir, "secretd.seals")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 { // by three processes, one after the other
		write(strings.Repeat("{}\n", i+1))
		s, err := ResumeSealer(p.key, path, "", list)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Seal(false); err != nil {
			t.Fatal(err)
		}
	}
	for text, want := range map[string]string{
		"{}\n{}\n{}\n": "", "{}\n{}\n{}\n{1}\n": "", "{}\n{}\n": "cut off", "{}\n{1}\n{}\n": "not those",
	} {
		write(text)
		if r, err := VerifySealed(path, list, p.key); err != nil || (r.Fault == "") != (want == "") || !strings.Contains(r.Fault, want) {
			t.Errorf("log %q: %+v, %v; want %q", text, r, err, want)
		}
	}
}

func TestOpenKey(t *testing.T) {
	p := newPlace(t)
	again, err := OpenKey(p.dir)
	if err != nil || again.master != p.key.master {
		t.Errorf("a second OpenKey has another key: %v", err)
	}
	if err := os.Chmod(filepath.Join(p.dir, keyFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKey(p.dir); err == nil {
		t.Error("OpenKey takes a key that all can read")
	}
}

func FuzzLeftover(f *testing.F) {
	p := newPlace(f)
	l := p.open(f, nil)
	appendAll(f, l, 0, 3)
	f.Add(bytes.Clone(l.tail.half(0)[:l.used[0]]), uint64(l.used[0]), uint64(1))
	f.Add([]byte("{\n{}\n"), uint64(1<<63), uint64(0))
	f.Fuzz(func(t *testing.T, text []byte, length, last uint64) {
		mem := make([]byte, tailLength)
		copy(mem, tailMagic)
		copy(mem[tailHead:], text)
		for i := range 8 {
			mem[atLength+i] = byte(length >> (8 * i))
		}
		for _, line := range leftover(mem, last) {
			last++
			if n, ok := number(line); !ok || n != last || line[len(line)-1] != '\n' {
				t.Fatalf("line %q as number %d", line, last)
			}
		}
	})
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(`{"i":0,"seq":1,"tag":"00000000000000000000000000000000"}` + "\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		c := &chain{key: [KeySize]byte{1}}
		if c.check(line) {
			t.Fatalf("forged %q", line)
		}
		if _, ok := checkSeal(line, (&Key{}).Public()); ok {
			t.Fatalf("forged %q", line)
		}
	})
}

// BenchmarkAppend also tells the processor time, since a machine under load makes the
// wall clock's useless.
func BenchmarkAppend(b *testing.B) {
	l := newPlace(b).open(b, nil)
	line := []byte(`{"time":"2026-11-23T01:02:03.000004Z","run":"abcdefghijkl","agent":"agent","kind":"credential","conn":3,"protocol":"web",` +
		`"name":"api.anthropic.com","port":443,"verdict":"allow","rule":"bound api.anthropic.com","secret":"ANTHROPIC_API_KEY","method":"POST","path":"/v1/messages","ms":0}`)
	began := processor()
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Append(line); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(processor()-began)/float64(b.N), "cpu-ns/op")
}

func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestPrune: a log that was taken away by who holds the key is no fault, one that has not ended stays, and one that
// somebody else takes away after all still shows.
func TestPrune(t *testing.T) {
	p := sealed(t)
	_, before := p.report(t)
	if err := Prune(p.key, p.log); err != nil {
		t.Fatal(err)
	}
	r, found := p.report(t)
	if want := (Report{Log: "a.jsonl", Agent: "agent", Sealed: 10, Seals: 4, Ended: true, Pruned: true}); r != want || !found.Good() {
		t.Errorf("%+v, want %+v; list: %q", r, want, found.Fault)
	}
	if has, err := Has(p.dir, p.key, before.Head); !has || err != nil {
		t.Errorf("the list is another: %v, %v", has, err)
	}
	if err := os.WriteFile(p.log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r, _ := p.report(t); r.Fault == "" {
		t.Error("an empty log in the place of a pruned one is good")
	}

	open := newPlace(t)
	l := open.open(t, nil)
	appendAll(t, l, 0, 3)
	if err := errors.Join(l.Flush(), NewSealer(open.key, open.log, "agent").Seal(false)); err != nil {
		t.Fatal(err)
	}
	if err := Prune(open.key, open.log); !errors.Is(err, ErrNotEnded) {
		t.Errorf("a log that goes on: %v, want ErrNotEnded", err)
	}
	if _, err := os.Stat(open.log); err != nil {
		t.Error(err)
	}
}

// TestPruneGoesOn: who was killed between the seal and the end of the file left a log that is good, and is pruned.
func TestPruneGoesOn(t *testing.T) {
	p := sealed(t)
	text, _ := os.ReadFile(p.log)
	if err := errors.Join(Prune(p.key, p.log), os.WriteFile(p.log, text, 0o600)); err != nil {
		t.Fatal(err)
	}
	if r, found := p.report(t); r.Fault != "" || r.Lines != 10 || !found.Good() {
		t.Errorf("%+v", r)
	}
	if err := Prune(p.key, p.log); err != nil {
		t.Error(err)
	}
	if r, found := p.report(t); !r.Pruned || r.Seals != 4 || !found.Good() {
		t.Errorf("%+v", r)
	}
}
