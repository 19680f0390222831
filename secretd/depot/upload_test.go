package depot_test

import (
	"errors"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/store"
)

// TestWhatAnUploadLeavesIsCollected ends uploads on the way.
func TestWhatAnUploadLeavesIsCollected(t *testing.T) {
	r := newRig(t)
	d := r.host("a")
	content, what := files(twoParts, 1)
	id := upload(t, d, "my-agent", content, what)
	d.Tend(t.Context())
	if parts, _ := store.List(t.Context(), r.parts, ""); len(parts) != 2 {
		t.Fatalf("an upload that goes on has %d parts, want 2", len(parts))
	}
	if _, err := d.Get(t.Context(), "my-agent"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("before its end: %v", err)
	}
	r.now = r.now.Add(61 * time.Minute)
	r.host("b").Tend(t.Context())
	wantNothing(t, r)
	if _, err := d.Commit(t.Context(), "my-agent", id, "a", true, unrecorded); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("the end of an upload that was given up: %v", err)
	}
	if err := d.Put(t.Context(), "my-agent", id, 0, content[:api.PartSize]); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("a part of an upload that was given up: %v", err)
	}
	id = upload(t, d, "my-agent", content, what)
	if err := d.Abort(t.Context(), "my-agent", id); err != nil {
		t.Fatal(err)
	}
	wantNothing(t, r)
	refused := errors.New("cannot record")
	id = upload(t, d, "my-agent", content, what)
	if _, err := d.Commit(t.Context(), "my-agent", id, "a", true, func(string) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("a deployment that cannot be recorded: %v", err)
	}
}

func TestPartsAreThoseThatWereAnnounced(t *testing.T) {
	r := newRig(t)
	d := r.host("a")
	content, what := files(twoParts, 1)
	id, err := d.Begin(t.Context(), "my-agent", what)
	if err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func() error{
		"other bytes":          func() error { return d.Put(t.Context(), "my-agent", id, 0, content[1:api.PartSize]) },
		"another part":         func() error { return d.Put(t.Context(), "my-agent", id, 1, content[:api.PartSize]) },
		"a part too many":      func() error { return d.Put(t.Context(), "my-agent", id, 2, nil) },
		"a negative part":      func() error { return d.Put(t.Context(), "my-agent", id, -1, nil) },
		"another agent's name": func() error { return d.Put(t.Context(), "other", id, 0, content[:api.PartSize]) },
		"a path as a name":     func() error { return d.Put(t.Context(), "my-agent", "../"+id, 0, content[:api.PartSize]) },
	} {
		if err := put(); !errors.Is(err, api.ErrInvalid) && !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range 2 { // the answer to the first may have been lost
		if err := d.Put(t.Context(), "my-agent", id, 0, content[:api.PartSize]); err != nil {
			t.Error(err)
		}
	}
}
