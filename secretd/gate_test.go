package secretd

import (
	"encoding/json"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/lease"
	"github.com/superserve/superserve/secretd/store"
)

// opened returns a daemon without sockets and a grant on MY_KEY, bound to api.x.com.
func opened(t testing.TB) (*Daemon, *grant, api.ResolveRequest) {
	t.Helper()
	d, err := Open(t.Context(), Config{State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	p, err := api.ParsePattern("api.x.com")
	if err != nil {
		t.Fatal(err)
	}
	binding := api.Binding{Hosts: []api.Pattern{p}}
	if _, err := d.Set(t.Context(), caller{}, "a", []api.Setting{{Name: "MY_KEY", Value: []byte("a-value-of-mine"), Binding: &binding}}); err != nil {
		t.Fatal(err)
	}
	reply, file, err := d.Grant(t.Context(), caller{}, api.GrantRequest{Agent: "a", Run: "r", Secrets: []api.Wanted{{Name: "MY_KEY"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, g := range d.grants {
		return d, g, api.ResolveRequest{Placeholder: reply.Entries[0].Placeholder, Host: "api.x.com", Port: 443, Use: api.Use{Kind: api.UseBearer}}
	}
	t.Fatal("no grant")
	return nil, nil, api.ResolveRequest{}
}

func TestGateRefusesWhatItCannotRecord(t *testing.T) {
	d, g, r := opened(t)
	if _, err := d.authorize(t.Context(), g, r); err != nil {
		t.Fatal(err)
	}
	if err := d.audit.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err := d.authorize(t.Context(), g, r); !errors.Is(err, api.ErrUnavailable) || v != nil {
		t.Errorf("resolve: %v; want ErrUnavailable", err)
	}
	if _, err := d.Set(t.Context(), caller{}, "a", []api.Setting{{Name: "MY_KEY", Value: []byte("not-recorded")}}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("set: %v; want ErrUnavailable", err)
	}
	if _, err := d.Delete(t.Context(), caller{}, "a", "MY_KEY", true); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("delete: %v; want ErrUnavailable", err)
	}
	if _, _, err := d.Grant(t.Context(), caller{}, api.GrantRequest{Agent: "a", Run: "r", Secrets: []api.Wanted{{Name: "MY_KEY"}}}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("grant: %v; want ErrUnavailable", err)
	}
	if list, err := d.List(t.Context(), "a"); err != nil || len(list) != 1 || list[0].Version != 1 {
		t.Errorf("something was carried out: %+v, %v", list, err)
	}
}

// TestGateRefusesAChangedStore changes what lies in clear in the store, as one who
// can write the file but has not the key.
func TestGateRefusesAChangedStore(t *testing.T) {
	for name, change := range map[string]func(*secret){
		"a wider binding": func(s *secret) { s.Binding.Hosts[0].Host = "evil.com" },
		"allow_own":       func(s *secret) { s.Binding.AllowOwn = true },
		"no binding":      func(s *secret) { s.Binding = api.Binding{} },
		"derived":         func(s *secret) { s.Derived = true },
		"another version": func(s *secret) { s.Version++ },
		"a changed value": func(s *secret) { s.Sealed[len(s.Sealed)-1] ^= 1 },
	} {
		t.Run("it refuses "+name, func(t *testing.T) {
			d, g, r := opened(t)
			record, err := d.store.Get(t.Context(), secretKey("a", "MY_KEY"))
			if err != nil {
				t.Fatal(err)
			}
			s, err := parseSecret(record)
			if err != nil {
				t.Fatal(err)
			}
			change(s)
			value, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.store.Apply(t.Context(), []store.Change{{Key: record.Key, Value: value, Base: record.Revision}}); err != nil {
				t.Fatal(err)
			}
			if s.Binding.Bound() {
				r.Host = s.Binding.Hosts[0].Host
				g.Granted[0].Binding = s.Binding
			}
			if v, err := d.authorize(t.Context(), g, r); err == nil || v != nil {
				t.Fatal("a changed record gave a value")
			}
			if _, _, err := d.Grant(t.Context(), caller{}, api.GrantRequest{Agent: "a", Run: "r", Secrets: []api.Wanted{{Name: "MY_KEY"}}}); err == nil {
				t.Fatal("a changed record was granted")
			}
		})
	}
	t.Run("it refuses a record of another name", func(t *testing.T) {
		d, g, r := opened(t)
		if _, err := d.Set(t.Context(), caller{}, "b", []api.Setting{{Name: "MY_KEY", Value: []byte("the-value-of-b")}}); err != nil {
			t.Fatal(err)
		}
		of := func(agent string) store.Record {
			record, err := d.store.Get(t.Context(), secretKey(agent, "MY_KEY"))
			if err != nil {
				t.Fatal(err)
			}
			return record
		}
		if err := d.store.Apply(t.Context(), []store.Change{{Key: secretKey("a", "MY_KEY"), Value: of("b").Value, Base: of("a").Revision}}); err != nil {
			t.Fatal(err)
		}
		if v, err := d.authorize(t.Context(), g, r); err == nil || v != nil {
			t.Fatal("b's record gave a value to a")
		}
	})
}

// TestUseThatRacesWithAChange has a use go on where it had read the record before a
// change, or before its run ended: the value does not stay in memory.
func TestUseThatRacesWithAChange(t *testing.T) {
	for name, change := range map[string]func(*Daemon, *grant) error{
		"a deletion": func(d *Daemon, _ *grant) error {
			_, err := d.Delete(t.Context(), caller{}, "a", "MY_KEY", true)
			return err
		},
		"a rotation": func(d *Daemon, _ *grant) error {
			_, err := d.Set(t.Context(), caller{}, "a", []api.Setting{{Name: "MY_KEY", Value: []byte("another-value")}})
			return err
		},
		"the end of the run": func(d *Daemon, g *grant) error {
			d.end(g, "")
			return nil
		},
	} {
		t.Run("it forgets the value of before "+name, func(t *testing.T) {
			d, g, _ := opened(t)
			writes := d.ledger.Writes()
			s, err := d.current(t.Context(), g, &g.Granted[0])
			if err == nil {
				err = change(d, g)
			}
			if err != nil {
				t.Fatal(err)
			}
			if v, err := d.value(s, writes); err != nil || string(v) != "a-value-of-mine" {
				t.Fatalf("the use: %v", err)
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			if len(d.values) > 0 {
				t.Error("the value is still there")
			}
		})
	}
}

func TestAGrantWhoseHolderDoesNotReadIsCut(t *testing.T) {
	d, g, _ := opened(t)
	for range 4 * maxChanges {
		d.tell("a", api.Change{Name: "MY_KEY", Kind: api.Rotated})
	}
	// The holder never greeted, so nothing was taken out of the queue.
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		d.mu.Lock()
		left := d.grants[g.id]
		d.mu.Unlock()
		if left == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the grant is still there")
		}
	}
}

// BenchmarkGate is the daemon's side of a Resolve: decide, open, record.
func BenchmarkGate(b *testing.B) {
	d, g, r := opened(b)
	for b.Loop() {
		if _, err := d.authorize(b.Context(), g, r); err != nil {
			b.Fatal(err)
		}
	}
}

var _ lease.Keeper = (*grant)(nil)
