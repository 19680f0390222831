package journal

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// moody is a disk on which syncs of one file may fail, once.
type moody struct {
	physical
	fails  string   // base name
	synced []string // base names, in order
	lost   func()   // what forget finds that the disk has not
}

func (m *moody) sync(f *os.File) error {
	name := filepath.Base(f.Name())
	if m.fails == name {
		m.fails = ""
		return syscall.EIO
	}
	m.synced = append(m.synced, name)
	return m.physical.sync(f)
}

func (m *moody) forget(f *os.File, from int64) {
	m.physical.forget(f, from)
	if m.lost != nil {
		m.lost()
	}
}

// onMoody returns a place with a log of ten lines, and its sealer.
func onMoody(t *testing.T) (place, *Sealer, *moody) {
	t.Helper()
	p, m := newPlace(t), &moody{}
	l := p.open(t, nil)
	appendAll(t, l, 0, 10)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s := NewSealer(p.key, p.log, "my-agent")
	s.disk = m
	return p, s, m
}

// TestNamesAreDurable syncs the directory of a log and of a list that were made just now,
// before what is in them counts.
func TestNamesAreDurable(t *testing.T) {
	p, s, m := onMoody(t)
	elsewhere := filepath.Join(p.dir, "elsewhere")
	if err := os.Mkdir(elsewhere, 0o700); err != nil {
		t.Fatal(err)
	}
	s.list = filepath.Join(elsewhere, SealsFile)
	if err := s.Seal(true); err != nil {
		t.Fatal(err)
	}
	if want := []string{"a.jsonl", "audit", "elsewhere", SealsFile}; !slices.Equal(m.synced, want) {
		t.Errorf("synced %q; want %q", m.synced, want)
	}
}

// TestSealThatIsNotOnTheDisk is taken back: the next one says the same from the beginning.
func TestSealThatIsNotOnTheDisk(t *testing.T) {
	p, s, m := onMoody(t)
	m.fails = SealsFile
	if err := s.Seal(false); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if err := s.Seal(true); err != nil {
		t.Fatal(err)
	}
	if r, found := p.report(t); r.Fault != "" || !r.Ended || found.Seals != 1 {
		t.Errorf("%+v, %+v", r, found)
	}
}

// TestSealReadsTheDisk seals what the disk has, and not what the kernel believes it has
// after a sync that failed.
func TestSealReadsTheDisk(t *testing.T) {
	p, s, m := onMoody(t)
	m.fails = "a.jsonl"
	if err := s.Seal(false); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	m.lost = func() {
		text, err := os.ReadFile(p.log)
		if err == nil {
			lines := strings.SplitAfter(string(text), "\n")
			err = os.WriteFile(p.log, []byte(strings.Join(lines[:7], "")), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Seal(true); err != nil {
		t.Fatal(err)
	}
	if r, _ := p.report(t); r.Fault != "" || r.Sealed != 7 {
		t.Errorf("%+v; want 7 lines sealed", r)
	}
}
