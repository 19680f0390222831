package depot_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/depot"
	"github.com/superserve/superserve/secretd/seal"
	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/memory"
	"github.com/superserve/superserve/secretd/store/split"
)

// rig is what hosts share: two stores and a root key.
type rig struct {
	t              testing.TB
	records, parts *memory.Store
	sealer         *seal.Sealer
	now            time.Time
}

// kept keeps a store of a rig open for the next host.
type kept struct{ store.Store }

func (kept) Close() error { return nil }

func newRig(t testing.TB) *rig {
	key := make([]byte, seal.KeySize)
	rand.Read(key)
	sealer, err := seal.New(key)
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, records: memory.New(), parts: memory.New(), sealer: sealer, now: time.Now()}
}

// host returns a depot of a host of its own.
func (r *rig) host(name string) *depot.Depot {
	return r.hostWith(name, memory.New())
}

func (r *rig) hostWith(name string, own store.Store) *depot.Depot {
	records := split.New(r.records, own, func(key string) bool { return strings.HasPrefix(key, depot.SeenPrefix) })
	return depot.New(depot.Config{
		Records: records, Sealer: r.sealer, Host: name, Now: func() time.Time { return r.now },
		Parts: func(context.Context) (store.Store, error) { return kept{r.parts}, nil },
	})
}

// files returns bytes of a snapshot, and what is said of them.
func files(n int, seed byte) ([]byte, api.Deployment) {
	content := make([]byte, n)
	for i := range content {
		content[i] = byte(i>>8) ^ byte(i) ^ seed
	}
	sum := sha256.Sum256(content)
	d := api.Deployment{Digest: hex.EncodeToString(sum[:]), Size: int64(n), Files: 1, Bytes: int64(n), Source: "/src", Command: []string{"run"}, Secrets: []string{"A_KEY"}}
	for part := range slices.Chunk(content, api.PartSize) {
		sum := sha256.Sum256(part)
		d.Sums = append(d.Sums, sum[:])
	}
	return content, d
}

func unrecorded(string) error { return nil }

func upload(t testing.TB, d *depot.Depot, agent string, content []byte, what api.Deployment) string {
	t.Helper()
	id, err := d.Begin(t.Context(), agent, what)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for part := range slices.Chunk(content, api.PartSize) {
		if err := d.Put(t.Context(), agent, id, n, part); err != nil {
			t.Fatal(err)
		}
		n++
	}
	return id
}

func deploy(t testing.TB, d *depot.Depot, agent string, content []byte, what api.Deployment) api.Agent {
	t.Helper()
	a, err := d.Commit(t.Context(), agent, upload(t, d, agent, content, what), "a-host", true, unrecorded)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func fetch(ctx context.Context, d *depot.Depot, a api.Agent) ([]byte, error) {
	var all []byte
	for n := range a.Parts() {
		part, err := d.Part(ctx, a.Name, a.Snapshot, n)
		if err != nil {
			return nil, err
		}
		all = append(all, part...)
	}
	return all, nil
}

const twoParts = api.PartSize + 1000

func TestOtherHostsHaveWhatOneDeploys(t *testing.T) {
	r := newRig(t)
	a, b := r.host("a"), r.host("b")
	content, what := files(twoParts, 1)
	sent := deploy(t, a, "my-agent", content, what)
	got, err := b.Get(t.Context(), "my-agent")
	if err != nil || got.Digest != sent.Digest || got.Version != 1 || got.Here || !sent.Here || got.Host != "a-host" || got.Command[0] != "run" {
		t.Fatalf("got %+v, %v; sent %+v", got, err, sent)
	}
	if all, err := fetch(t.Context(), b, got); err != nil || !bytes.Equal(all, content) {
		t.Fatalf("%d bytes came, %v; want %d", len(all), err, len(content))
	}
	next, said := files(100, 2)
	if again := deploy(t, b, "my-agent", next, said); again.Version != 2 {
		t.Errorf("version %d, want 2", again.Version)
	}
	if list, err := a.List(t.Context()); err != nil || len(list) != 1 || list[0].Digest != said.Digest {
		t.Errorf("List = %+v, %v", list, err)
	}
	if _, err := fetch(t.Context(), a, sent); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("the snapshot of before: %v, want ErrNotFound", err)
	}
	if err := a.Delete(t.Context(), "my-agent", unrecorded); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(t.Context(), "my-agent"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("after a deletion: %v, want ErrNotFound", err)
	}
	b.Tend(t.Context())
	wantNothing(t, r)
}

// wantNothing wants no part, and no note on one.
func wantNothing(t testing.TB, r *rig) {
	t.Helper()
	parts, _ := store.List(t.Context(), r.parts, "")
	notes, _ := store.List(t.Context(), r.records, depot.UploadPrefix)
	if len(parts) > 0 || len(notes) > 0 {
		t.Errorf("%d parts and %d notes are left", len(parts), len(notes))
	}
}

// TestEveryChangeOfThePartsIsNoticed plays whoever can write in the store and has no key.
func TestEveryChangeOfThePartsIsNoticed(t *testing.T) {
	r := newRig(t)
	d := r.host("a")
	content, what := files(twoParts, 1)
	mine := deploy(t, d, "my-agent", content, what)
	other := deploy(t, d, "other", content, what) // the same bytes, elsewhere
	key := func(a api.Agent, n int) string { return fmt.Sprintf("%s/%03d", a.Snapshot, n) }
	value := func(k string) []byte {
		rec, err := r.parts.Get(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		return rec.Value
	}
	put := func(k string, v []byte) {
		t.Helper()
		rec, _ := r.parts.Get(t.Context(), k)
		if err := r.parts.Apply(t.Context(), []store.Change{{Key: k, Value: v, Delete: v == nil, Base: rec.Revision}}); err != nil {
			t.Fatal(err)
		}
	}
	first, second := value(key(mine, 0)), value(key(mine, 1))
	cases := map[string]struct {
		value []byte
		want  error
	}{
		"a bit in the key's box":    {flip(first, 40), seal.ErrSealed},
		"a bit in the text":         {flip(first, len(first)-100), seal.ErrSealed},
		"its end is cut":            {first[:len(first)-1], seal.ErrCut},
		"it is cut to nothing":      {[]byte{}, seal.ErrCut},
		"another agent's part":      {value(key(other, 0)), seal.ErrMoved},
		"another part of the agent": {second, seal.ErrMoved},
		"what was never sealed":     {bytes.Repeat([]byte{2}, 1000), seal.ErrSealed},
		"a record of another kind":  {value(key(other, 1)), seal.ErrMoved},
		"it is taken away":          {nil, nil},
	}
	for name, tt := range cases {
		put(key(mine, 0), tt.value)
		_, err := d.Part(t.Context(), "my-agent", mine.Snapshot, 0)
		if !errors.Is(err, api.ErrDamaged) || tt.want != nil && !errors.Is(err, tt.want) || tt.want == nil && !strings.Contains(err.Error(), "missing") {
			t.Errorf("%s: %v; want %v", name, err, tt.want)
		}
		if rec, err := r.parts.Get(t.Context(), key(mine, 0)); err == nil {
			r.parts.Apply(t.Context(), []store.Change{{Key: key(mine, 0), Delete: true, Base: rec.Revision}})
		}
		put(key(mine, 0), first)
	}
	again := deploy(t, d, "my-agent", content, what)
	put(key(again, 0), first)
	if _, err := d.Part(t.Context(), "my-agent", again.Snapshot, 0); !errors.Is(err, seal.ErrMoved) {
		t.Errorf("a part of the deployment before: %v; want ErrMoved", err)
	}
	flips := 0
	for bit := range 8 * 200 { // the head and the box, whole
		put(key(again, 1), flip(second, bit/8, byte(1)<<(bit%8)))
		if _, err := d.Part(t.Context(), "my-agent", again.Snapshot, 1); !errors.Is(err, api.ErrDamaged) {
			t.Fatalf("bit %d: %v", bit, err)
		}
		flips++
	}
	t.Logf("%d flipped bits noticed", flips)
}

func flip(p []byte, at int, mask ...byte) []byte {
	q := bytes.Clone(p)
	q[at] ^= append(mask, 1)[0]
	return q
}

// TestEveryChangeOfTheRecordIsNoticed does the same with an agent's record, which names the parts.
func TestEveryChangeOfTheRecordIsNoticed(t *testing.T) {
	r := newRig(t)
	own := memory.New()
	d := r.hostWith("a", own)
	content, what := files(1000, 1)
	get := func(name string) store.Record {
		rec, err := r.records.Get(t.Context(), depot.AgentPrefix+name)
		if err != nil {
			t.Fatal(err)
		}
		return rec
	}
	put := func(name string, value []byte) {
		t.Helper()
		rec := get(name)
		if err := r.records.Apply(t.Context(), []store.Change{{Key: rec.Key, Value: value, Base: rec.Revision}}); err != nil {
			t.Fatal(err)
		}
	}
	deploy(t, d, "my-agent", content, what)
	deploy(t, d, "other", content, what)
	old := get("my-agent").Value
	deploy(t, d, "my-agent", content, what)
	now := get("my-agent").Value
	for name, tt := range map[string]struct {
		value []byte
		want  string
	}{
		"a bit":                {flip(now, len(now)/2), "does not open"},
		"another agent's":      {get("other").Value, "moved here"},
		"another number":       {bytes.Replace(now, []byte(`"version":2`), []byte(`"version":3`), 1), "version was changed"},
		"the one of before":    {old, "rolled back: version 1, where this host saw 2"},
		"the end is cut":       {now[:len(now)-4], "does not open"},
		"nothing is left":      {[]byte("{}"), "cut short"},
		"what is JSON no more": {[]byte("\x00"), "does not open"},
	} {
		put("my-agent", tt.value)
		for _, ask := range []func() error{
			func() error { _, err := d.Get(t.Context(), "my-agent"); return err },
			func() error { _, err := d.List(t.Context()); return err },
			func() error { _, err := r.hostWith("a", own).Get(t.Context(), "my-agent"); return err }, // started anew
		} {
			if err := ask(); !errors.Is(err, api.ErrDamaged) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v; want %q", name, err, tt.want)
			}
		}
		put("my-agent", now)
		if _, err := d.Get(t.Context(), "my-agent"); err != nil {
			t.Fatal(err)
		}
	}
	put("my-agent", flip(now, len(now)/2))
	if a := deploy(t, d, "my-agent", content, what); a.Version != 3 {
		t.Errorf("what is damaged was replaced by version %d, want 3", a.Version)
	}
	put("my-agent", flip(now, len(now)/2))
	if err := d.Delete(t.Context(), "my-agent", unrecorded); err != nil {
		t.Error(err)
	}
	if a := deploy(t, d, "my-agent", content, what); a.Version != 5 {
		t.Errorf("what was deleted was replaced by version %d, want 5", a.Version)
	}
	now = get("my-agent").Value
	rec := get("my-agent")
	r.records.Apply(t.Context(), []store.Change{{Key: rec.Key, Delete: true, Base: rec.Revision}})
	if _, err := d.Get(t.Context(), "my-agent"); !errors.Is(err, api.ErrDamaged) {
		t.Errorf("taken away from outside: %v", err)
	}
	if a := deploy(t, d, "my-agent", content, what); a.Version != 6 {
		t.Errorf("deployed again as version %d, want 6", a.Version)
	}
	if err := d.Delete(t.Context(), "my-agent", unrecorded); err != nil {
		t.Fatal(err)
	}
	put("my-agent", now)
	if _, err := d.Get(t.Context(), "my-agent"); !errors.Is(err, api.ErrDamaged) {
		t.Errorf("what was deleted was put back: %v", err)
	}
	if err := d.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.hostWith("a", own).Get(t.Context(), "my-agent"); err != nil {
		t.Errorf("accepted on purpose: %v", err)
	}
}

// TestDeployersAndReadersAtOnce has hosts deploy the same agent without pause while others fetch it: what is fetched is
// always one of the deployments, whole.
func TestDeployersAndReadersAtOnce(t *testing.T) {
	r := newRig(t)
	const writers, rounds = 3, 6
	valid := map[string]bool{}
	var wait sync.WaitGroup
	done := make(chan struct{})
	first, said := files(twoParts, 99)
	valid[said.Digest] = true
	deploy(t, r.host("first"), "my-agent", first, said)
	for w := range writers {
		d := r.host(fmt.Sprint("w", w))
		for i := range rounds {
			_, what := files(twoParts, byte(w*rounds+i))
			valid[what.Digest] = true
		}
		wait.Go(func() {
			for i := range rounds {
				content, what := files(twoParts, byte(w*rounds+i))
				deploy(t, d, "my-agent", content, what)
				d.Tend(t.Context())
			}
		})
	}
	var readers sync.WaitGroup
	for range 2 {
		d := r.host("reader")
		readers.Go(func() {
			whole := 0
			for {
				select {
				case <-done:
					if whole == 0 {
						t.Error("no reader got anything")
					}
					return
				default:
				}
				a, err := d.Get(t.Context(), "my-agent")
				if err != nil {
					t.Error(err)
					return
				}
				all, err := fetch(t.Context(), d, a)
				if errors.Is(err, api.ErrNotFound) {
					continue // deployed again meanwhile
				}
				sum := sha256.Sum256(all)
				if got := hex.EncodeToString(sum[:]); err != nil || got != a.Digest || !valid[got] {
					t.Errorf("a mixture: %v", err)
					return
				}
				whole++
			}
		})
	}
	wait.Wait()
	d := r.host("last")
	for { // until a reader had a quiet moment
		a, err := d.Get(t.Context(), "my-agent")
		if err != nil || a.Version != writers*rounds+1 {
			t.Fatalf("version %d, %v; want %d", a.Version, err, writers*rounds+1)
		}
		if _, err := fetch(t.Context(), d, a); err == nil {
			break
		}
	}
	close(done)
	readers.Wait()
	d.Tend(t.Context())
	if parts, _ := store.List(t.Context(), r.parts, ""); len(parts) != 2 {
		t.Errorf("%d parts are left, want 2", len(parts))
	}
}

// TestAgainSealsEverything changes the root key, with parts that stay as they are.
func TestAgainSealsEverything(t *testing.T) {
	r := newRig(t)
	content, what := files(twoParts, 1)
	deploy(t, r.host("a"), "my-agent", content, what)
	deploy(t, r.host("a"), "my-agent", content, what) // leaves a note
	before := r.sealer
	r.sealer = newRig(t).sealer
	all, err := store.List(t.Context(), r.records, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range all {
		value, ours, err := depot.Again(r.records.ID(), rec, before, r.sealer)
		if err != nil || !ours {
			t.Fatalf("%s: %v, %v", rec.Key, ours, err)
		}
		if err := r.records.Apply(t.Context(), []store.Change{{Key: rec.Key, Value: value, Base: rec.Revision}}); err != nil {
			t.Fatal(err)
		}
	}
	d := r.host("b")
	a, err := d.Get(t.Context(), "my-agent")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := fetch(t.Context(), d, a); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := d.Collect(t.Context()); err != nil {
		t.Error(err)
	}
	if _, ours, _ := depot.Again("", store.Record{Key: "spent/x"}, before, before); ours {
		t.Error("took a record that is not the depot's")
	}
}

// FuzzRecords reads arbitrary records where an agent's, an upload's and a part's would be.
func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"version":1,"sealed":"AgAA"}`))
	f.Add([]byte{2, 0, 0})
	f.Fuzz(func(t *testing.T, value []byte) {
		r := newRig(t)
		d := r.host("a")
		content, what := files(10, 1)
		a := deploy(t, d, "other", content, what)
		part, _ := r.parts.Get(t.Context(), a.Snapshot+"/000")
		r.parts.Apply(t.Context(), []store.Change{{Key: part.Key, Value: value, Base: 1}})
		r.records.Apply(t.Context(), []store.Change{
			{Key: depot.AgentPrefix + "my-agent", Value: value},
			{Key: depot.UploadPrefix + "my-agent/" + a.Snapshot, Value: value},
		})
		if _, err := d.Get(t.Context(), "my-agent"); err == nil {
			t.Error("an agent out of nothing")
		}
		if _, err := d.Part(t.Context(), "other", a.Snapshot, 0); err == nil {
			t.Error("a part out of nothing")
		}
		if err := d.Collect(t.Context()); err == nil {
			t.Error("a note out of nothing")
		}
	})
}
