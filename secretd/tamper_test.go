package secretd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/audit"
	"github.com/superserve/superserve/secretd/ledger"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/store"
)

// given is a key source that costs nothing, for tests that open a store often.
type given struct{}

func (given) Kind() string { return "given" }
func (given) New(context.Context, string, bool) ([]byte, []byte, error) {
	return bytes.Repeat([]byte{9}, seal.KeySize), nil, nil
}
func (g given) Key(ctx context.Context, s string, _ []byte) ([]byte, error) {
	key, _, err := g.New(ctx, s, false)
	return key, err
}
func (given) Retire(context.Context, []byte) error { return nil }

// image is what lies on the disk, as a store.
type image struct {
	id      string
	records map[string]store.Record
}

func (i image) ID() string { return i.id }
func (i image) Get(_ context.Context, key string) (store.Record, error) {
	r, ok := i.records[key]
	if !ok {
		return r, store.ErrNotFound
	}
	return r, nil
}
func (i image) Walk(_ context.Context, prefix string, visit func(store.Record) error) error {
	for _, key := range slices.Sorted(maps.Keys(i.records)) {
		if strings.HasPrefix(key, prefix) {
			if err := visit(i.records[key]); err != nil {
				return err
			}
		}
	}
	return nil
}
func (i image) Apply(context.Context, []store.Change) error {
	return errors.New("an image is read-only")
}
func (i image) Close() error { return nil }

// with returns the image with one record's value replaced.
func (i image) with(key string, value []byte) image {
	r := i.records[key]
	r.Value = value
	changed := image{i.id, maps.Clone(i.records)}
	changed.records[key] = r
	return changed
}

func imageOf(t testing.TB, d *Daemon) image {
	t.Helper()
	all, err := store.List(t.Context(), d.store, "")
	if err != nil {
		t.Fatal(err)
	}
	i := image{d.store.ID(), make(map[string]store.Record)}
	for _, r := range all {
		i.records[r.Key] = r
	}
	return i
}

// small makes a store with two secrets of two agents, one of them set twice, a grant and
// a time of use, and returns what lay on the disk at the end and before the last change.
func small(t testing.TB, state string) (now, before image) {
	t.Helper()
	d, err := Open(t.Context(), Config{State: state, Keys: given{}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p, err := api.ParsePattern("api.x.com")
	if err != nil {
		t.Fatal(err)
	}
	put := func(agent, value string) {
		t.Helper()
		setting := api.Setting{Name: "MY_KEY", Value: []byte(value), Binding: &api.Binding{Hosts: []api.Pattern{p}}}
		if _, err := d.Set(t.Context(), self(), agent, []api.Setting{setting}); err != nil {
			t.Fatal(err)
		}
	}
	put("a", "first-value-of-a")
	put("b", "first-value-of-b")
	_, file, err := d.Grant(t.Context(), self(), api.GrantRequest{Agent: "a", Run: "r", Secrets: []api.Wanted{{Name: "MY_KEY"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	d.markUsed("a", "MY_KEY")
	d.storeUsed()
	before = imageOf(t, d)
	put("a", "other-value-of-a")
	return imageOf(t, d), before
}

// judge opens an image as a daemon does, and every record of it.
func judge(ctx context.Context, state string, i image) error {
	d := &Daemon{cfg: Config{State: state, Keys: given{}}, dir: filepath.Join(state, "secretd"), store: i,
		grants: make(map[string]*grant), used: nil, values: nil}
	d.ctx, d.cancel = context.WithCancel(ctx)
	defer d.wait.Wait()
	defer d.cancel()
	if err := d.unlock(ctx); err != nil {
		return err
	}
	return d.loadGrants(ctx)
}

// TestTamper changes a small store in every way that is one step: each bit of each
// record, each length, each pair of records swapped, each record removed, doubled, put
// back; and opens it by the right key. Nothing is accepted.
func TestTamper(t *testing.T) {
	state := t.TempDir()
	now, before := small(t, state)
	ctx := t.Context()
	if err := judge(ctx, state, now); err != nil {
		t.Fatalf("the store itself: %v", err)
	}
	count := make(map[string]int)
	refused := func(kind string, i image, also ...error) {
		t.Helper()
		err := judge(ctx, state, i)
		if err == nil {
			t.Fatalf("%s: accepted: %v", kind, slices.Sorted(maps.Keys(i.records)))
		}
		for _, want := range also {
			if !errors.Is(err, want) {
				t.Fatalf("%s: %v; want %v", kind, err, want)
			}
		}
		count[kind]++
	}
	for key, r := range now.records {
		for bit := range len(r.Value) * 8 {
			value := bytes.Clone(r.Value)
			value[bit/8] ^= 1 << (bit % 8)
			refused("bit flipped", now.with(key, value))
		}
		for n := range r.Value {
			refused("record cut", now.with(key, r.Value[:n]))
		}
		refused("record longer", now.with(key, append(bytes.Clone(r.Value), ' ')))
		revised := now.with(key, r.Value)
		r.Revision++
		revised.records[key] = r
		if key != "head" { // its revision says nothing: its place does
			refused("revision changed", revised, ledger.ErrChanged)
		}
		for other, o := range now.records {
			if other != key && !bytes.Equal(o.Value, r.Value) {
				refused("records swapped", now.with(key, o.Value).with(other, r.Value))
			}
		}
		removed := image{now.id, maps.Clone(now.records)}
		delete(removed.records, key)
		if key != rootKey { // a store without a root key is a new one: see TestRollbackIsRefused
			refused("record removed", removed)
		}
		doubled := image{now.id, maps.Clone(now.records)}
		double := r
		double.Key = key + "2"
		doubled.records[double.Key] = double
		refused("record added", doubled, ledger.ErrChanged)
		if old, ok := before.records[key]; ok && !bytes.Equal(old.Value, now.records[key].Value) {
			back := now.with(key, old.Value)
			back.records[key] = old
			refused("record put back", back, ledger.ErrChanged)
		}
	}
	refused("store put back", before, ledger.ErrRollback)
	refused("store of another name", image{"another", now.records}, seal.ErrKey)
	for name, change := range map[string]func(*secret){
		"host added":     func(s *secret) { s.Binding.Hosts = append(s.Binding.Hosts, api.Pattern{Host: "evil.example"}) },
		"plaintext":      func(s *secret) { s.Binding.Plaintext = true },
		"own keys":       func(s *secret) { s.Binding.AllowOwn = true },
		"hosts wildcard": func(s *secret) { s.Binding.Hosts[0].Wild = true },
	} {
		refused("binding widened: "+name, now.with("secret/a/MY_KEY", edit(t, now, change)), ledger.ErrChanged, seal.ErrBinding)
	}
	refused("version changed", now.with("secret/a/MY_KEY", edit(t, now, func(s *secret) { s.Version++ })), ledger.ErrChanged, seal.ErrRenumbered)
	refused("origin changed", now.with("secret/a/MY_KEY", edit(t, now, func(s *secret) { s.Origin = "x" })), ledger.ErrChanged, seal.ErrMoved)
	swapped := now.with("secret/a/MY_KEY", now.records["secret/b/MY_KEY"].Value)
	refused("other agent's record", swapped, ledger.ErrChanged, seal.ErrMoved)
	total := 0
	for _, kind := range slices.Sorted(maps.Keys(count)) {
		t.Logf("%6d %s", count[kind], kind)
		total += count[kind]
	}
	t.Logf("%6d refused, 0 accepted", total)
}

func edit(t *testing.T, i image, change func(*secret)) []byte {
	t.Helper()
	s, err := parseSecret(i.records["secret/a/MY_KEY"])
	if err != nil {
		t.Fatal(err)
	}
	change(s)
	value, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestRollbackIsRefused puts older files back, and takes files away, one and several at
// a time.
func TestRollbackIsRefused(t *testing.T) {
	state := t.TempDir()
	cfg := Config{State: state}
	change := func(value string) {
		t.Helper()
		d, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Set(t.Context(), self(), "a", []api.Setting{{Name: "MY_KEY", Value: []byte(value)}}); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	change("first-value")
	old := files(t, state)
	change("second-value")
	whole := files(t, state)
	const db, log, key, anchor = "secretd/store.db", "secretd/audit.log", "secretd/key", "secretd.anchor"
	for name, tt := range map[string]struct {
		back, gone []string
		want       error
	}{
		"an older store":                       {back: []string{db}, want: ledger.ErrRollback},
		"an older store and audit log":         {back: []string{db, log}, want: ledger.ErrRollback},
		"an older audit log":                   {back: []string{log}, want: audit.ErrCut},
		"no audit log":                         {gone: []string{log}, want: audit.ErrCut},
		"no anchor":                            {gone: []string{anchor}, want: ledger.ErrAnchor},
		"an older store and no anchor":         {back: []string{db}, gone: []string{anchor}, want: ledger.ErrAnchor},
		"no store":                             {gone: []string{db}, want: ledger.ErrAnchor},
		"no store, key and audit log":          {gone: []string{db, key, log}, want: ledger.ErrAnchor},
		"no key":                               {gone: []string{key}, want: os.ErrNotExist},
		"an older anchor (a crash in between)": {back: []string{anchor}},
	} {
		t.Run("it answers to "+name, func(t *testing.T) {
			lay(t, state, whole, nil)
			lay(t, state, pick(old, tt.back), tt.gone)
			d, err := Open(t.Context(), cfg)
			if err == nil {
				err = d.Close()
			}
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v; want %v", err, tt.want)
			}
			if tt.want == nil || name == "no key" {
				return
			}
			if !ledger.Mistrust(err) {
				t.Errorf("%v is not told apart from other errors", err)
			}
			accepting := cfg
			accepting.AcceptRollback = true
			if d, err = Open(t.Context(), accepting); err != nil {
				t.Fatalf("accept: %v", err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if d, err = Open(t.Context(), cfg); err != nil {
				t.Fatalf("after it was accepted: %v", err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if log, _ := os.ReadFile(filepath.Join(state, log)); !bytes.Contains(log, []byte(`"verb":"accept"`)) {
				t.Error("the audit log does not say that it was accepted")
			}
		})
	}
}

// files returns what a state directory holds, by path.
func files(t *testing.T, state string) map[string][]byte {
	t.Helper()
	found := make(map[string][]byte)
	for _, name := range []string{"secretd/store.db", "secretd/audit.log", "secretd/key", "secretd.anchor"} {
		content, err := os.ReadFile(filepath.Join(state, name))
		if err != nil {
			t.Fatal(err)
		}
		found[name] = content
	}
	return found
}

func pick(from map[string][]byte, names []string) map[string][]byte {
	some := make(map[string][]byte)
	for _, n := range names {
		some[n] = from[n]
	}
	return some
}

func lay(t *testing.T, state string, content map[string][]byte, gone []string) {
	t.Helper()
	for name, c := range content {
		if err := os.WriteFile(filepath.Join(state, name), c, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range gone {
		if err := os.Remove(filepath.Join(state, name)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRekey changes the key from source to source; values, versions and grants stay, and
// no key of before opens anything.
func TestRekey(t *testing.T) {
	state := t.TempDir()
	cfg := Config{State: state}
	d, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		if _, err := d.Set(t.Context(), self(), "a", []api.Setting{{Name: fmt.Sprintf("KEY_%d", n), Value: []byte("a-value-of-mine")}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	file := seal.File{Path: filepath.Join(state, "secretd", "key")}
	elsewhere := seal.File{Path: filepath.Join(state, "key-elsewhere")}
	phrase := seal.Passphrase{Ask: func(context.Context, bool) ([]byte, error) { return []byte("correct horse battery"), nil }}
	for _, step := range []struct{ from, to seal.Source }{{nil, file}, {file, phrase}, {phrase, elsewhere}, {elsewhere, file}} {
		before := files2(t, state)
		cfg.Keys = step.from
		if n, err := Rekey(t.Context(), cfg, step.to); err != nil || n < 21 {
			t.Fatalf("rekey to %s: %d records, %v", step.to.Kind(), n, err)
		}
		if step.from != nil {
			if d, err := Open(t.Context(), cfg); !errors.Is(err, seal.ErrKey) && !errors.Is(err, os.ErrNotExist) && step.from != step.to {
				d.Close()
				t.Fatalf("the source of before: %v; want ErrKey", err)
			}
		}
		cfg.Keys = step.to
		d, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		s, err := d.load(t.Context(), "a", "KEY_7")
		if err != nil {
			t.Fatal(err)
		}
		value, err := d.openValue(s)
		if err != nil || string(value) != "a-value-of-mine" || s.Version != 1 {
			t.Fatalf("after rekey: %q, version %d, %v", value, s.Version, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if before != nil && bytes.Equal(before, files2(t, state)) {
			t.Error("the key file is the same")
		}
	}
	if _, err := os.Lstat(elsewhere.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key file that is not used any more is left: %v", err)
	}
}

func files2(t *testing.T, state string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(state, "secretd", "key"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return content
}
