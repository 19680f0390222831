package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = bytes.Repeat([]byte{7}, 32)

func written(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := Open(path, key, Mark{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := l.Record(Event{Verb: "resolve", Agent: "a", Names: []string{"KEY"}, Host: "api.x.com", Port: 443}, i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLog(t *testing.T) {
	path := written(t, 5)
	l, err := Open(path, key, Mark{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Record(Event{Verb: "end"}, true); err != nil {
		t.Fatal(err)
	}
	l.Close()
	p, _ := os.ReadFile(path)
	if n, err := Verify(bytes.NewReader(p), key); n != 6 || err != nil {
		t.Fatalf("verified %d, %v; want 6", n, err)
	}
}

func TestVerifySeesEveryChange(t *testing.T) {
	p, _ := os.ReadFile(written(t, 5))
	lines := bytes.SplitAfter(p, []byte("\n"))[:5]
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	for name, changed := range map[string][]byte{
		"a removed line":   join(lines[0], lines[2], lines[3], lines[4]),
		"a doubled line":   join(lines[0], lines[1], lines[1], lines[2]),
		"two lines turned": join(lines[0], lines[2], lines[1]),
		"no first line":    join(lines[1:]...),
		"another host":     bytes.Replace(p, []byte("api.x.com"), []byte("api.y.com"), 1),
		"an added field":   bytes.Replace(p, []byte(`"verb"`), []byte(`"pid":1,"verb"`), 1),
		"a short line":     join([]byte("{}\n"), p),
		"a long line":      join(bytes.Repeat([]byte("x"), maxLine+1), p),
	} {
		if n, err := Verify(bytes.NewReader(changed), key); !errors.Is(err, ErrChanged) {
			t.Errorf("%s: verified %d, %v; want ErrChanged", name, n, err)
		}
	}
	if _, err := Verify(bytes.NewReader(p), bytes.Repeat([]byte{8}, 32)); !errors.Is(err, ErrChanged) {
		t.Errorf("another key: %v; want ErrChanged", err)
	}
}

func TestOpenAfterACut(t *testing.T) {
	path := written(t, 3)
	p, _ := os.ReadFile(path)
	if err := os.WriteFile(path, p[:len(p)-7], 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path, key, Mark{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Record(Event{Verb: "end"}, true); err != nil {
		t.Fatal(err)
	}
	l.Close()
	p, _ = os.ReadFile(path)
	if n, err := Verify(bytes.NewReader(p), key); n != 3 || err != nil {
		t.Fatalf("verified %d, %v; want 2 and the new one", n, err)
	}
}

func TestRecordFailsWhenTheFileDoes(t *testing.T) {
	l, err := Open(written(t, 1), key, Mark{})
	if err != nil {
		t.Fatal(err)
	}
	l.file.Close()
	if err := l.Record(Event{Verb: "resolve"}, false); err == nil || strings.Contains(err.Error(), "KEY") {
		t.Fatalf("got %v; want an error", err)
	}
	_ = l.Close()
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"seq":1,"chain":""}` + "\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		if n, _ := Verify(bytes.NewReader(p), key); n != 0 {
			t.Fatalf("forged %d lines", n)
		}
	})
}

// TestLinesThatAreTooLong records nothing that could not be read back.
func TestLinesThatAreTooLong(t *testing.T) {
	path, key := filepath.Join(t.TempDir(), "audit.log"), []byte("key")
	l, err := Open(path, key, Mark{})
	if err != nil {
		t.Fatal(err)
	}
	for n := maxLine - 400; n < maxLine+400; n++ {
		_ = l.Record(Event{Verb: "resolve", Host: strings.Repeat("x", n)}, false)
	}
	if err := l.Record(Event{Verb: "resolve", Host: strings.Repeat("\x01", 16<<10)}, false); err == nil {
		t.Error("took a line of 96 KiB")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = Open(path, key, Mark{}); err != nil {
		t.Fatal(err)
	}
	if l.seq < 100 {
		t.Errorf("only %d lines", l.seq)
	}
	l.Close()
}
