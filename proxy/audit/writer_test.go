package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/superserve/superserve/secretd/journal"
)

func full() Event {
	return Event{
		Time: time.Date(2026, 11, 23, 1, 2, 3, 4000, time.UTC), Run: "r1", Agent: "a1", Kind: Credential, Conn: 3, Protocol: "web", Name: "api.x.com",
		Addr: "1.2.3.4", Port: 443, Verdict: Allowed, Rule: "bound api.x.com", Reason: "r", Secret: "KEY", Method: "POST", Path: "/v1",
		Status: 200, Sent: 10, Received: 20, Duration: 1500 * time.Microsecond,
	}
}

func TestRecord(t *testing.T) {
	var out bytes.Buffer
	if err := NewRunWriter(&out, "other", "other").Record(full()); err != nil {
		t.Fatal(err)
	}
	want := `{"time":"2026-11-23T01:02:03.000004Z","run":"r1","agent":"a1","kind":"credential","conn":3,"protocol":"web","name":"api.x.com",` +
		`"addr":"1.2.3.4","port":443,"verdict":"allow","rule":"bound api.x.com","reason":"r","secret":"KEY","method":"POST","path":"/v1",` +
		`"status":200,"sent":10,"received":20,"ms":1.5}` + "\n"
	if out.String() != want {
		t.Errorf("line:\n%swant:\n%s", out.String(), want)
	}
	out.Reset()
	w := NewRunWriter(&out, "r9", "a9")
	w.now = func() time.Time { return time.Unix(0, 0) }
	if err := w.Record(Event{Kind: Connection}); err != nil {
		t.Fatal(err)
	}
	if want := `{"time":"1970-01-01T00:00:00.000000Z","run":"r9","agent":"a9","kind":"connection","ms":0}` + "\n"; out.String() != want {
		t.Errorf("line:\n%swant:\n%s", out.String(), want)
	}
}

// oneWrite fails the test when a line comes in several writes.
type oneWrite struct {
	t *testing.T
	n int
}

func (w *oneWrite) Write(p []byte) (int, error) {
	w.n++
	if bytes.Count(p, []byte("\n")) != 1 || p[len(p)-1] != '\n' || !json.Valid(p) {
		w.t.Errorf("write of %q", p)
	}
	return len(p), nil
}

func TestTimes(t *testing.T) {
	w := NewWriter(io.Discard)
	for _, at := range []time.Time{{}, time.Unix(0, 0), time.Unix(1e9, 999_999_999), time.Date(2028, 2, 29, 23, 59, 59, 1000, time.FixedZone("", 3600))} {
		want := at.UTC().Format("2006-01-02T15:04:05.000000Z")
		if got := string(appendTime(nil, at)); got != want {
			t.Errorf("time %v is written %q, want %q", at, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0", time.Microsecond: "0.001", 1500 * time.Microsecond: "1.5", 20 * time.Millisecond: "20", time.Hour + 120*time.Microsecond: "3600000.12",
		-time.Second: "0", 999: "0",
	} {
		e := Event{Duration: d, Time: time.Unix(0, 0)}
		if got := string(e.appendJSON(nil, w)); !strings.HasSuffix(got, `"ms":`+want+"}") {
			t.Errorf("duration %v is written %q, want %q", d, got, want)
		}
	}
}

func TestRecordIsOneWrite(t *testing.T) {
	sink := &oneWrite{t: t}
	w := NewWriter(sink)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if err := w.Record(full()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if sink.n != 400 {
		t.Errorf("%d writes, want 400", sink.n)
	}
}

type short struct{ err error }

func (s short) Write(p []byte) (int, error) { return len(p) - 1, s.err }

func TestRecordReturnsErrors(t *testing.T) {
	full := errors.New("disk full")
	if err := NewWriter(short{full}).Record(Event{}); !errors.Is(err, full) {
		t.Errorf("Record: %v", err)
	}
	if err := NewWriter(short{}).Record(Event{}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("Record: %v", err)
	}
}

func TestTextIsBounded(t *testing.T) {
	var out bytes.Buffer
	if err := NewWriter(&out).Record(Event{Path: "/" + strings.Repeat("é", 1<<16), Method: strings.Repeat("M", 1<<16)}); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 2*(maxPath+maxText) || !json.Valid(out.Bytes()) {
		t.Errorf("a line of %d bytes", out.Len())
	}
}

// FuzzRecord holds any text to come back as encoding/json reads it, in one line.
func FuzzRecord(f *testing.F) {
	for _, s := range []string{"/a", "\"\\\n\r\t\x00\x7f", "\u2028é\xff", "𝄞", "</script>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		var out bytes.Buffer
		if err := NewWriter(&out).Record(Event{Path: path}); err != nil {
			t.Fatal(err)
		}
		var got struct{ Path string }
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || bytes.Count(out.Bytes(), []byte("\n")) != 1 {
			t.Fatalf("line %q: %v", out.Bytes(), err)
		}
		if len(path) <= maxPath && utf8.ValidString(path) && got.Path != path {
			t.Errorf("path %q came back as %q", path, got.Path)
		}
	})
}

// BenchmarkRecord tells the processor time too, since on a machine under load the
// wall clock's tells nothing. "journal" is what a run pays; "write" is a write(2) a line.
func BenchmarkRecord(b *testing.B) {
	e := full()
	e.Run, e.Agent = "", ""
	bench := func(name string, w func(testing.TB) *Writer) {
		b.Run(name, func(b *testing.B) {
			w := w(b)
			began := processor()
			b.ReportAllocs()
			for b.Loop() {
				if err := w.Record(e); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(processor()-began)/float64(b.N), "cpu-ns/op")
		})
	}
	bench("encode", func(testing.TB) *Writer { return NewRunWriter(io.Discard, "abcdefghijkl", "agent") })
	bench("write", func(t testing.TB) *Writer { return NewRunWriter(file(t), "abcdefghijkl", "agent") })
	bench("journal", func(t testing.TB) *Writer { return NewJournalWriter(openJournal(t), "abcdefghijkl", "agent") })
}

func file(t testing.TB) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "a.jsonl"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func openJournal(t testing.TB) *journal.Log {
	t.Helper()
	tail, err := journal.CreateTail(filepath.Join(t.TempDir(), "a.tail"), [journal.KeySize]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	l, err := journal.OpenLog(file(t), tail)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
