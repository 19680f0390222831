package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
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

func BenchmarkRecord(b *testing.B) {
	w, e := NewWriter(io.Discard), full()
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Record(e); err != nil {
			b.Fatal(err)
		}
	}
}
