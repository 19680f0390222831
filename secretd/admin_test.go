package secretd_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/secretdtest"
)

func TestSetMergesAllOrNothing(t *testing.T) {
	d := secretdtest.Start(t)
	names, err := d.Client.Set(t.Context(), "my-agent", []api.Setting{{Name: "B_KEY", Value: []byte("value-of-b")}, {Name: "A_KEY", Value: []byte("value-of-a")}})
	if err != nil || cmp.Diff([]string{"A_KEY", "B_KEY"}, names) != "" {
		t.Fatalf("got %v, %v", names, err)
	}
	for name, bad := range map[string]api.Setting{
		"an empty value":  {Name: "C_KEY"},
		"a short value":   {Name: "C_KEY", Value: []byte("short")},
		"a NUL":           {Name: "C_KEY", Value: []byte("has\x00a-nul-byte")},
		"a huge value":    {Name: "C_KEY", Value: make([]byte, api.MaxValue+1)},
		"a bad name":      {Name: "C-KEY", Value: []byte("value-of-c")},
		"no name":         {Value: []byte("value-of-c")},
		"a name twice":    {Name: "A_KEY", Value: []byte("value-of-c")},
		"a line break":    {Name: "OPENAI_API_KEY", Value: []byte("value\r\nof-c")},
		"a public suffix": {Name: "C_KEY", Value: []byte("value-of-c"), Binding: &api.Binding{Hosts: []api.Pattern{{Host: "co.uk", Wild: true}}}},
		"too many hosts":  {Name: "C_KEY", Value: []byte("value-of-c"), Binding: &api.Binding{Hosts: make([]api.Pattern, 65)}},
	} {
		if name == "too many hosts" {
			for i := range bad.Binding.Hosts {
				bad.Binding.Hosts[i].Host = api.Host(fmt.Sprintf("h%d.x.com", i))
			}
		}
		_, err := d.Client.Set(t.Context(), "my-agent", []api.Setting{{Name: "A_KEY", Value: []byte("changed-a")}, bad})
		if !errors.Is(err, api.ErrInvalid) || strings.Contains(err.Error(), "value-of") {
			t.Errorf("%s: got %v; want ErrInvalid without the value", name, err)
		}
	}
	list, err := d.Client.List(t.Context(), "my-agent")
	if err != nil || len(list) != 2 || list[0].Version != 1 {
		t.Fatalf("half a set was stored: %+v, %v", list, err)
	}
	if names, err = d.Client.Set(t.Context(), "my-agent", []api.Setting{{Name: "A_KEY", Value: []byte("new-value-of-a")}, {Name: "S", Value: []byte("x"), AllowShort: true}}); err != nil || len(names) != 3 {
		t.Fatalf("got %v, %v; want the others kept", names, err)
	}
	list, _ = d.Client.List(t.Context(), "my-agent")
	if list[0].Version != 2 || list[1].Version != 1 || list[0].SetAt.IsZero() || !list[0].LastUsed.IsZero() {
		t.Fatalf("list %+v", list)
	}
	if names, err = d.Client.Delete(t.Context(), "my-agent", "A_KEY", false); err != nil || cmp.Diff([]string{"B_KEY", "S"}, names) != "" {
		t.Fatalf("got %v, %v", names, err)
	}
	if _, err = d.Client.Delete(t.Context(), "my-agent", "A_KEY", false); !errors.Is(err, api.ErrNotFound) {
		t.Fatalf("got %v; want ErrNotFound", err)
	}
	if list, err = d.Client.List(t.Context(), "another"); err != nil || len(list) != 0 {
		t.Fatalf("got %v, %v", list, err)
	}
}

func TestBindings(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "MY_KEY", "a-value-of-mine")
	set(t, d, "DATABASE_URL", "postgres://app:hunter22@db.x.com/main")
	r := grant(t, d, api.Wanted{Name: "MY_KEY"}, api.Wanted{Name: "DATABASE_URL"})
	r.refuses(t, r.request("MY_KEY", "api.x.com"), api.ErrUnbound)
	if got := r.Entries()[1].Binding; cmp.Diff(bindingOf(t, "db.x.com:5432", "postgres"), got, patterns()) != "" {
		t.Errorf("binding of the URL: %+v", got)
	}
	if p := r.Entries()[1].Placeholder; !strings.HasPrefix(p, "postgres://app:") || !strings.HasSuffix(p, "@db.x.com/main") || strings.Contains(p, "hunter22") {
		t.Errorf("placeholder of the URL: %q", p)
	}

	if err := d.Client.Bind(t.Context(), "my-agent", "MY_KEY", bindingOf(t, "api.x.com *.y.com", "header:x-key bearer")); err != nil {
		t.Fatal(err)
	}
	bound := grant(t, d, api.Wanted{Name: "MY_KEY"})
	bound.want(t, bound.request("MY_KEY", "api.x.com"), "a-value-of-mine")
	bound.want(t, bound.request("MY_KEY", "a.b.y.com"), "a-value-of-mine")
	bound.refuses(t, bound.request("MY_KEY", "y.com"), api.ErrHost)

	// A value that changes keeps its binding; a binding that narrows holds at once.
	set(t, d, "MY_KEY", "another-value-of-mine")
	<-bound.changes
	bound.want(t, bound.request("MY_KEY", "api.x.com"), "another-value-of-mine")
	if err := d.Client.Bind(t.Context(), "my-agent", "MY_KEY", bindingOf(t, "*.y.com", "bearer")); err != nil {
		t.Fatal(err)
	}
	<-bound.changes
	bound.refuses(t, bound.request("MY_KEY", "api.x.com"), api.ErrHost)
	bound.want(t, bound.request("MY_KEY", "a.y.com"), "another-value-of-mine")

	override := bindingOf(t, "203.0.113.7:8443 over.x.com", "")
	o := grant(t, d, api.Wanted{Name: "MY_KEY", Binding: &override})
	o.want(t, o.request("MY_KEY", "over.x.com"), "another-value-of-mine")
	byAddr := o.request("MY_KEY", "")
	byAddr.Addr, byAddr.Port = "203.0.113.7", 8443
	o.want(t, byAddr, "another-value-of-mine")
	o.refuses(t, o.request("MY_KEY", "a.y.com"), api.ErrHost)
	query := o.request("MY_KEY", "over.x.com")
	query.Use = api.Use{Kind: api.UseQuery, Arg: "key"}
	o.refuses(t, query, api.ErrHost)

	place := api.Binding{Uses: bindingOf(t, "", "header:x-other").Uses, AllowOwn: true}
	p := grant(t, d, api.Wanted{Name: "MY_KEY", Binding: &place})
	if b := p.Entries()[0].Binding; !b.AllowOwn || b.Hosts[0].String() != "*.y.com" || b.Uses[0].String() != "header:x-other" {
		t.Errorf("an override of the place alone: %+v", b)
	}

	for name, err := range map[string]error{
		"no host":      d.Client.Bind(t.Context(), "my-agent", "MY_KEY", api.Binding{}),
		"public":       d.Client.Bind(t.Context(), "my-agent", "MY_KEY", bindingOf(t, "*.co.uk", "")),
		"unknown name": d.Client.Bind(t.Context(), "my-agent", "NONE", bindingOf(t, "x.com", "")),
	} {
		if !errors.Is(err, api.ErrInvalid) && !errors.Is(err, api.ErrNotFound) {
			t.Errorf("%s: got %v; want a refusal", name, err)
		}
	}
	if list, err := d.Client.List(t.Context(), "my-agent"); err != nil || list[1].LastUsed.IsZero() {
		t.Errorf("last used: %+v, %v", list, err)
	}
}

func TestExpose(t *testing.T) {
	d := secretdtest.Start(t)
	set(t, d, "SIGNING_KEY", "a-key-no-proxy-can-broker")
	set(t, d, "OPENAI_API_KEY", "sk-proj-"+strings.Repeat("R", 60))
	r := grant(t, d, api.Wanted{Name: "SIGNING_KEY", Expose: true}, api.Wanted{Name: "OPENAI_API_KEY"})
	if string(r.reply.Exposed["SIGNING_KEY"]) != "a-key-no-proxy-can-broker" || len(r.reply.Exposed) != 1 {
		t.Fatalf("exposed %d values", len(r.reply.Exposed))
	}
	if e := r.Entries()[0]; !e.Exposed || e.Placeholder != "" || e.Binding.Bound() {
		t.Fatalf("entry %+v", e)
	}
	log, err := os.ReadFile(filepath.Join(d.Dir, "secretd", "audit.log"))
	if err != nil || !bytes.Contains(log, []byte(`"verb":"expose","agent":"my-agent","run":"run-1","names":["SIGNING_KEY"]`)) {
		t.Fatalf("the audit log does not say so: %v\n%s", err, log)
	}
}
