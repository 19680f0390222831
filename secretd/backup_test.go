package secretd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/ledger"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/store"
)

func identity(t testing.TB) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// filled returns the configuration of a store with n secrets and a grant.
func filled(t testing.TB, n int) Config {
	t.Helper()
	cfg := Config{State: t.TempDir()}
	d, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var settings []api.Setting
	for i := range n {
		settings = append(settings, api.Setting{Name: fmt.Sprintf("KEY_%d", i), Value: fmt.Appendf(nil, "value-number-%d", i)})
	}
	for len(settings) > 0 && err == nil {
		some := settings[:min(len(settings), api.MaxSecrets)]
		settings = settings[len(some):]
		_, err = d.Set(t.Context(), self(), "my-agent", some)
	}
	if err == nil {
		var f *os.File
		if _, f, err = d.Grant(t.Context(), self(), api.GrantRequest{Agent: "my-agent", Run: "r", Secrets: []api.Wanted{{Name: "KEY_0"}}}); err == nil {
			f.Close()
		}
	}
	if err := errors.Join(err, d.Close()); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func backedUpTo(t testing.TB, cfg Config, id *age.X25519Identity) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Backup(t.Context(), cfg, &b, id.Recipient()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func has(t testing.TB, cfg Config, n int) {
	t.Helper()
	d, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	all, err := d.loadAll(t.Context(), "my-agent")
	if err != nil || len(all) != n {
		t.Fatalf("%d secrets, %v; want %d", len(all), err, n)
	}
	for _, s := range all {
		value, err := d.openValue(s)
		if err != nil || string(value) != "value-number-"+strings.TrimPrefix(s.name, "KEY_") {
			t.Fatalf("%s: %q, %v", s.name, value, err)
		}
	}
}

func TestBackup(t *testing.T) {
	const n = restoreBatch + 7
	id, from := identity(t), filled(t, n)
	b := backedUpTo(t, from, id)
	if bytes.Contains(b, []byte("KEY_1")) || bytes.Contains(b, []byte("my-agent")) {
		t.Error("names stand in clear in the backup")
	}
	t.Run("it is restored on another host, under a key of its own", func(t *testing.T) {
		to := Config{State: t.TempDir(), Keys: seal.Passphrase{Ask: func(context.Context, bool) ([]byte, error) { return []byte("correct horse battery"), nil }}}
		got, err := Restore(t.Context(), to, bytes.NewReader(b), identity(t), id)
		if err != nil || got != n+1 { // and the key of the audit log
			t.Fatalf("%d records, %v; want %d", got, err, n+1)
		}
		has(t, to, n)
		log, err := os.ReadFile(filepath.Join(to.State, "secretd", "audit.log"))
		if err != nil || !bytes.Contains(log, []byte(`"verb":"restore"`)) {
			t.Errorf("the audit log says %s, %v", log, err)
		}
	})
	t.Run("it is restored where its store was lost", func(t *testing.T) {
		if _, err := Restore(t.Context(), from, bytes.NewReader(b), id); !errors.Is(err, fs.ErrExist) {
			t.Fatalf("over a store: got %v; want ErrExist", err)
		}
		has(t, from, n)
		if err := os.Remove(filepath.Join(from.State, "secretd", "store.db")); err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(t.Context(), from, bytes.NewReader(b), id); err != nil {
			t.Fatal(err)
		}
		has(t, from, n)
		log, err := os.ReadFile(filepath.Join(from.State, "secretd", "audit.log"))
		if err != nil || !bytes.Contains(log, []byte(`"verb":"backup"`)) || !bytes.Contains(log, []byte(`"verb":"restore"`)) {
			t.Errorf("the audit log says %s, %v", log, err)
		}
	})
	t.Run("it is not put beside a shared store", func(t *testing.T) {
		to := Config{State: t.TempDir(), Shared: func(context.Context) (store.Watcher, error) { return nil, errors.New("not to be opened") }}
		if _, err := Restore(t.Context(), to, bytes.NewReader(b), id); err == nil || !strings.Contains(err.Error(), "this host's own") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("it is not put in place of another's store that was lost", func(t *testing.T) {
		to := filled(t, 1)
		if err := os.Remove(filepath.Join(to.State, "secretd", "store.db")); err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(t.Context(), to, bytes.NewReader(b), id); !errors.Is(err, ledger.ErrAnchor) {
			t.Fatalf("got %v; want ErrAnchor", err)
		}
	})
}

// TestBackupChanged cuts a backup at every length and flips a bit of every byte.
func TestBackupChanged(t *testing.T) {
	id := identity(t)
	b := backedUpTo(t, filled(t, 1), id)
	accepted := 0
	try := func(b []byte, what string, at int) {
		cfg := Config{State: t.TempDir()}
		if _, err := Restore(t.Context(), cfg, bytes.NewReader(b), id); err == nil {
			accepted++
			t.Errorf("%s at %d of %d was taken", what, at, len(b))
		}
		if left, _ := filepath.Glob(filepath.Join(cfg.State, "secretd", "store*")); len(left) > 0 {
			t.Errorf("%s at %d left %v", what, at, left)
		}
	}
	for i := range b {
		try(b[:i], "a cut", i)
		flipped := bytes.Clone(b)
		flipped[i] ^= 1 << (i % 8)
		try(flipped, "a flipped bit", i)
	}
	if _, err := Restore(t.Context(), Config{State: t.TempDir()}, bytes.NewReader(b), identity(t)); err == nil {
		t.Error("another's identity opened it")
	}
	t.Logf("%d changed backups, %d accepted", 2*len(b), accepted)
}

// plainBackup returns the lines of a backup of one secret.
func plainBackup(t testing.TB) []byte {
	t.Helper()
	id := identity(t)
	r, err := age.Decrypt(bytes.NewReader(backedUpTo(t, filled(t, 1), id)), id)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// restorePlain restores what came out of the encryption.
func restorePlain(t testing.TB, plain []byte) error {
	t.Helper()
	d, err := closed(Config{State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.restore(t.Context(), bytes.NewReader(plain))
	return errors.Join(err, d.Close())
}

// TestHostileBackup is what somebody writes who knows the recipient.
func TestHostileBackup(t *testing.T) {
	plain := plainBackup(t)
	lines := bytes.SplitAfter(plain, []byte("\n"))
	head := func(change func(*backupHead)) []byte {
		var h backupHead
		if err := json.Unmarshal(lines[0], &h); err != nil {
			t.Fatal(err)
		}
		change(&h)
		line, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		return append(line, '\n')
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, b := range map[string][]byte{
		"nothing":                    nil,
		"another format":             join(head(func(h *backupHead) { h.Backup = 2 }), lines[1], lines[2]),
		"no records":                 join(head(func(h *backupHead) { h.Records = 0 })),
		"records beyond all bounds":  join(head(func(h *backupHead) { h.Records = 1 << 40 }), lines[1], lines[2]),
		"fewer records than it says": join(lines[0], lines[1]),
		"more records than it says":  join(plain, lines[1]),
		"a record twice":             join(lines[0], lines[1], lines[1]),
		"another root key":           join(head(func(h *backupHead) { h.Root[0] ^= 1 }), lines[1], lines[2]),
		"a short root key":           join(head(func(h *backupHead) { h.Root = h.Root[1:] }), lines[1], lines[2]),
		"another store's name":       join(head(func(h *backupHead) { h.Store = "another" }), lines[1], lines[2]),
		"a grant":                    join(lines[0], lines[1], []byte(`{"key":"grant/x","value":"AAAA"}`+"\n")),
		"the head of a ledger":       join(lines[0], lines[1], []byte(`{"key":"head","value":"AAAA"}`+"\n")),
		"a widened binding":          join(lines[0], lines[1], widened(t, lines[2])),
		"a line without end":         join(lines[0], bytes.Repeat([]byte("x"), maxBackupLine+1)),
	} {
		t.Run("it refuses "+name, func(t *testing.T) {
			err := restorePlain(t, b)
			if err == nil || strings.Contains(err.Error(), "value-number") {
				t.Fatalf("got %v", err)
			}
			t.Log(err)
		})
	}
	if err := restorePlain(t, plain); err != nil {
		t.Fatalf("the unchanged one: %v", err)
	}
}

// widened binds the secret of a line to a host more.
func widened(t testing.TB, line []byte) []byte {
	t.Helper()
	var r backupRecord
	var s secret
	if err := errors.Join(json.Unmarshal(line, &r), json.Unmarshal(r.Value, &s)); err != nil {
		t.Fatal(err)
	}
	s.Binding.Hosts = append(s.Binding.Hosts, api.Pattern{Host: "evil.example"})
	var err error
	if r.Value, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	line, err = json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return append(line, '\n')
}

func FuzzRestore(f *testing.F) {
	f.Add(plainBackup(f))
	f.Add([]byte(`{"superserve_backup":1,"store":"x","records":1,"root":""}` + "\n"))
	f.Fuzz(func(t *testing.T, plain []byte) { _ = restorePlain(t, plain) })
}
