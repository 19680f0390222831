package swap

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/secretd/api"
)

// The placeholders of a run whose marker is 7aRkEr99.
const (
	anthropic = "sk-ant-api03-7aRkEr99abcdefghijklmnopqrstuv0123456789"
	github    = "ghp_7aRkEr99ABCDEFGHIJKLMNOPQRSTUVWXYZ01"
	stripe    = "sk_live_7aRkEr99stripestripestripestripe0123"
	linear    = "lin_api_7aRkEr99linearlinearlinearlinear0123"
	loose     = "ssv_7aRkEr99looseloooseloooseloooselooose"
	open      = "ssv_7aRkEr99openopenopenopenopenopenopen"
	gone      = "ssv_7aRkEr99gonegonegonegonegonegonegone"
	local     = "ssv_7aRkEr99locallocallocallocallocallocal"
	forged    = "ssv_7aRkEr99forgedforgedforgedforgedforged"
	older     = "ssv_3oLdRuN0olderolderolderolderolderolder"
)

func patterns(t testing.TB, hosts ...string) []api.Pattern {
	t.Helper()
	var all []api.Pattern
	for _, h := range hosts {
		p, err := api.ParsePattern(h)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func uses(t testing.TB, list ...string) []api.Use {
	t.Helper()
	var all []api.Use
	for _, u := range list {
		use, err := api.ParseUse(u)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, use)
	}
	return all
}

func entries(t testing.TB) []api.Entry {
	return []api.Entry{
		{Name: "ANTHROPIC_API_KEY", Placeholder: anthropic, Binding: api.Binding{Hosts: patterns(t, "api.anthropic.com"), Uses: uses(t, "header:x-api-key", "bearer")}},
		{Name: "GITHUB_TOKEN", Placeholder: github, Binding: api.Binding{Hosts: patterns(t, "api.github.com", "github.com"), Uses: uses(t, "bearer", "basic:password")}},
		{Name: "STRIPE_KEY", Placeholder: stripe, Binding: api.Binding{Hosts: patterns(t, "api.stripe.com"), Uses: uses(t, "bearer", "basic:user")}},
		{Name: "LINEAR_KEY", Placeholder: linear, Binding: api.Binding{Hosts: patterns(t, "api.linear.app", "*.linear.app:8443"), Uses: uses(t, "header:authorization", "header:x-linear-key")}},
		{Name: "LOOSE", Placeholder: loose},
		{Name: "OPEN", Placeholder: open, Binding: api.Binding{Hosts: patterns(t, "api.open.com", "plain.open.com:80"), AllowOwn: true, Plaintext: true}},
		{Name: "GONE", Placeholder: gone, Binding: api.Binding{Hosts: patterns(t, "api.open.com", "api.gone.com")}},
		{Name: "LOCAL", Placeholder: local, Binding: api.Binding{Hosts: patterns(t, "203.0.113.7:443"), Uses: uses(t, "bearer")}},
		{Name: "SHOWN", Placeholder: "", Exposed: true, Binding: api.Binding{Hosts: patterns(t, "api.shown.com")}},
	}
}

// values answers Resolve, and keeps what was asked.
type values struct {
	of    map[string]string
	errs  map[string]error
	asked []api.ResolveRequest
}

func (v *values) Resolve(_ context.Context, r api.ResolveRequest) (api.Secret, error) {
	v.asked = append(v.asked, r)
	if err := v.errs[r.Placeholder]; err != nil {
		return nil, err
	}
	value := []byte(v.of[r.Placeholder])
	if v.of[r.Placeholder] == "" {
		value = nil
	}
	return func() []byte { return value }, nil
}

func source() *values {
	return &values{
		of: map[string]string{
			anthropic: "sk-ant-REAL", github: "ghp_REAL", stripe: "sk_live_REAL", linear: "lin_REAL", open: "open-REAL", local: "local-REAL",
		},
		errs: map[string]error{gone: api.ErrRevoked},
	}
}

func basic(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }

func fieldsOf(lines ...string) []Field {
	fields := []Field{{[]byte("User-Agent"), []byte("test/1 " + anthropic)}, {[]byte("accept"), []byte("*/*")}}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		fields = append(fields, Field{[]byte(name), []byte(value)})
	}
	return fields
}

func target(host string) Target {
	t := Target{Port: 443, TLS: true}
	if a, err := netip.ParseAddr(host); err == nil {
		t.Addr = a
		return t
	}
	t.Host = api.Host(host)
	return t
}

// outcome is what a request becomes: its fields after the edits, or a reason.
func outcome(s *Swapper, t Target, fields []Field) []string {
	plan, refusal := s.Judge(context.Background(), t, fields)
	if refusal != nil {
		return []string{refusal.Reason}
	}
	out := make([]string, 0, len(fields))
	for _, f := range fields {
		out = append(out, string(f.Name)+": "+string(f.Value))
	}
	if plan != nil {
		for _, e := range plan.Edits {
			out[e.Index] = string(fields[e.Index].Name) + ": " + string(e.AppendValue(nil))
		}
	}
	return out[2:]
}

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		name string
		host string
		in   []string
		want []string // nil: as in
	}{
		{"passes a request without a credential to a bound host", "api.anthropic.com", []string{"X-Other: 1"}, nil},
		{"swaps a header", "api.anthropic.com", []string{"X-Api-Key: " + anthropic}, []string{"X-Api-Key: sk-ant-REAL"}},
		{"swaps a header of HTTP/2", "api.anthropic.com", []string{"x-api-key: " + anthropic}, []string{"x-api-key: sk-ant-REAL"}},
		{"swaps a bearer", "api.anthropic.com", []string{"Authorization: Bearer " + anthropic}, []string{"Authorization: Bearer sk-ant-REAL"}},
		{"keeps the case of the scheme", "api.anthropic.com", []string{"AUTHORIZATION: bEARER " + anthropic}, []string{"AUTHORIZATION: bEARER sk-ant-REAL"}},
		{"keeps the space after the scheme", "api.anthropic.com", []string{"authorization: Bearer  \t" + anthropic}, []string{"authorization: Bearer  \tsk-ant-REAL"}},
		{"swaps in two fields", "api.anthropic.com", []string{"x-api-key: " + anthropic, "authorization: Bearer " + anthropic}, []string{"x-api-key: sk-ant-REAL", "authorization: Bearer sk-ant-REAL"}},
		{"swaps GitHub's token scheme", "api.github.com", []string{"Authorization: token " + github}, []string{"Authorization: token ghp_REAL"}},
		{"swaps a Basic password", "github.com", []string{"Authorization: " + basic("x-access-token:"+github)}, []string{"Authorization: " + basic("x-access-token:ghp_REAL")}},
		{"swaps a Basic user", "api.stripe.com", []string{"Authorization: " + basic(stripe+":")}, []string{"Authorization: " + basic("sk_live_REAL:")}},
		{"swaps a Basic user with some password", "api.stripe.com", []string{"Authorization: " + basic(stripe+":x")}, []string{"Authorization: " + basic("sk_live_REAL:x")}},
		{"swaps Basic without padding", "api.stripe.com", []string{"Authorization: " + strings.TrimRight(basic(stripe+":x"), "=")}, []string{"Authorization: " + basic("sk_live_REAL:x")}},
		{"swaps both halves of Basic", "api.open.com", []string{"Authorization: " + basic(open+":"+open)}, []string{"Authorization: " + basic("open-REAL:open-REAL")}},
		{"swaps a whole Authorization", "api.linear.app", []string{"Authorization: " + linear}, []string{"Authorization: lin_REAL"}},
		{"swaps behind a scheme of header:authorization", "api.linear.app", []string{"Authorization: ApiKey " + linear}, []string{"Authorization: ApiKey lin_REAL"}},
		{"swaps a field that only a binding names", "api.linear.app", []string{"X-Linear-Key: Bearer " + linear}, []string{"X-Linear-Key: Bearer lin_REAL"}},
		{"swaps Token token=", "api.linear.app", []string{"Authorization: Token token=" + linear}, []string{"Authorization: Token token=lin_REAL"}},
		{"swaps Token token in quotes", "api.linear.app", []string{`Authorization: Token token="` + linear + `"`}, []string{`Authorization: Token token="lin_REAL"`}},
		{"swaps in any credential field without uses", "api.open.com", []string{"X-Auth-Token: " + open}, []string{"X-Auth-Token: open-REAL"}},
		{"swaps for an IP literal that a binding names", "203.0.113.7", []string{"Authorization: Bearer " + local}, []string{"Authorization: Bearer local-REAL"}},

		{"leaves a placeholder elsewhere", "api.anthropic.com", []string{"X-Request-Id: " + anthropic, "Cookie: a=" + github, "Idempotency-Key: " + loose}, nil},
		{"leaves an empty scheme", "api.anthropic.com", []string{"Authorization: Bearer"}, nil},
		{"leaves an empty credential field", "api.anthropic.com", []string{"x-api-key: "}, nil},
		{"leaves own credentials at an unbound host", "api.other.com", []string{"Authorization: Bearer own", "authorization: again"}, nil},
		{"leaves an old run's placeholder at an unbound host", "api.other.com", []string{"Authorization: Bearer " + older}, nil},

		{"refuses another host", "api.evil.com", []string{"Authorization: Bearer " + anthropic}, []string{ReasonMismatch}},
		{"refuses a host bound to another secret", "api.github.com", []string{"Authorization: Bearer " + anthropic}, []string{ReasonMismatch}},
		{"refuses a host below", "x.api.anthropic.com", []string{"x-api-key: " + anthropic}, []string{ReasonMismatch}},
		{"refuses an IP literal", "192.0.2.1", []string{"x-api-key: " + anthropic}, []string{ReasonMismatch}},
		{"refuses an unbound secret", "api.anthropic.com", []string{"x-api-key: " + loose}, []string{ReasonUnbound}},
		{"refuses a forged placeholder", "api.anthropic.com", []string{"x-api-key: " + forged}, []string{ReasonUnknown}},
		{"refuses a forged placeholder at an unbound host", "api.other.com", []string{"x-api-key: " + forged}, []string{ReasonUnknown}},
		{"refuses a forged placeholder in Basic", "github.com", []string{"Authorization: " + basic("x:"+forged)}, []string{ReasonUnknown}},
		{"refuses a forged half beside a good one", "api.open.com", []string{"Authorization: " + basic(open+":"+forged)}, []string{ReasonUnknown}},
		{"refuses a beginning of a placeholder", "api.anthropic.com", []string{"x-api-key: " + anthropic[:30]}, []string{ReasonUnknown}},
		{"refuses an old run's placeholder at a bound host", "api.anthropic.com", []string{"x-api-key: " + older}, []string{ReasonForeign}},
		{"refuses own credentials at a bound host", "api.anthropic.com", []string{"Authorization: Bearer sk-ant-own"}, []string{ReasonForeign}},
		{"refuses own credentials beside a placeholder", "api.anthropic.com", []string{"x-api-key: " + anthropic, "Authorization: Bearer sk-ant-own"}, []string{ReasonForeign}},
		{"refuses own Basic credentials", "github.com", []string{"Authorization: " + basic("me:own")}, []string{ReasonForeign}},
		{"refuses own Basic that is not base64", "github.com", []string{"Authorization: Basic ????"}, []string{ReasonForeign}},
		{"refuses an own Proxy-Authorization", "github.com", []string{"Proxy-Authorization: x"}, []string{ReasonForeign}},
		{"refuses a placeholder behind other text", "api.anthropic.com", []string{"x-api-key: a b " + anthropic}, []string{ReasonPlace}},
		{"refuses a placeholder before other text", "api.anthropic.com", []string{"Authorization: Bearer " + anthropic + ",x"}, []string{ReasonPlace}},
		{"refuses a list", "api.anthropic.com", []string{"Authorization: Bearer " + anthropic + ", Bearer " + anthropic}, []string{ReasonPlace}},
		{"refuses Basic where it is not bound", "api.anthropic.com", []string{"Authorization: " + basic("u:"+anthropic)}, []string{ReasonPlace}},
		{"refuses the user half where the password is bound", "github.com", []string{"Authorization: " + basic(github+":x-oauth-basic")}, []string{ReasonPlace}},
		{"refuses a header that is not bound", "api.github.com", []string{"x-api-key: " + github}, []string{ReasonPlace}},
		{"refuses a raw Authorization where bearer is bound", "api.github.com", []string{"Authorization: " + github}, []string{ReasonPlace}},
		{"refuses text around a half of Basic", "github.com", []string{"Authorization: " + basic("u:a"+github)}, []string{ReasonPlace}},
		{"refuses a raw placeholder as Basic credentials", "github.com", []string{"Authorization: Basic " + github}, []string{ReasonPlace}},
		{"refuses two fields of a name", "api.anthropic.com", []string{"x-api-key: " + anthropic, "X-Api-Key: " + anthropic}, []string{ReasonDuplicate}},
		{"refuses an empty second field", "api.anthropic.com", []string{"x-api-key: " + anthropic, "X-Api-Key: "}, []string{ReasonDuplicate}},
		{"refuses an own second field even where own are allowed", "api.anthropic.com", []string{"x-api-key: ", "X-Api-Key: "}, []string{ReasonDuplicate}},
		{"refuses own credentials where one of two secrets forbids them", "api.open.com", []string{"Authorization: Bearer own"}, []string{ReasonForeign}},
		{"refuses a revoked secret", "api.gone.com", []string{"Authorization: Bearer " + gone}, []string{ReasonRevoked}},
		{"changes nothing when one of two secrets fails", "api.open.com", []string{"x-api-key: " + open, "Authorization: Bearer " + gone}, []string{ReasonRevoked}},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			want := tt.want
			if want == nil {
				want = tt.in
			}
			got := outcome(New(entries(t), source()), target(tt.host), fieldsOf(tt.in...))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("to %s with %q (-want +got)\n%s", tt.host, tt.in, diff)
			}
		})
	}
}

func TestJudgePlaintextAndPorts(t *testing.T) {
	for _, tt := range []struct {
		name, key, want string
		target          Target
	}{
		{"refuses a bound host without TLS", anthropic, ReasonPlaintext, Target{Host: "api.anthropic.com", Port: 443}},
		{"refuses port 80", anthropic, ReasonPlaintext, Target{Host: "api.anthropic.com", Port: 80}},
		{"refuses another port", anthropic, ReasonMismatch, Target{Host: "api.anthropic.com", Port: 8443, TLS: true}},
		{"takes a bound port", linear, "lin_REAL", Target{Host: "eu.linear.app", Port: 8443, TLS: true}},
		{"refuses the apex of a wildcard", linear, ReasonMismatch, Target{Host: "linear.app", Port: 8443, TLS: true}},
		{"swaps without TLS where the binding says so", open, "open-REAL", Target{Host: "plain.open.com", Port: 80}},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			field := "Authorization: "
			got := outcome(New(entries(t), source()), tt.target, fieldsOf(field+tt.key))[0]
			got = strings.TrimPrefix(got, field)
			if got == ReasonPlace {
				got = outcome(New(entries(t), source()), tt.target, fieldsOf(field+"Bearer "+tt.key))[0]
			}
			if got != tt.want {
				t.Errorf("got %q; want %q", got, tt.want)
			}
		})
	}
}

func TestAllowOwn(t *testing.T) {
	only := []api.Entry{{Name: "OPEN", Placeholder: open, Binding: api.Binding{Hosts: patterns(t, "api.open.com"), AllowOwn: true}}}
	s := New(only, source())
	in := []string{"Authorization: Bearer own", "X-Api-Key: mine"}
	if diff := cmp.Diff(in, outcome(s, target("api.open.com"), fieldsOf(in...))); diff != "" {
		t.Errorf("it lets own credentials pass (-want +got)\n%s", diff)
	}
	got := outcome(s, target("api.open.com"), fieldsOf("Authorization: Bearer own", "Authorization: Bearer "+open))
	if got[0] != ReasonDuplicate {
		t.Errorf("it refuses an own field before a placeholder: got %q", got)
	}
}

func TestResolveIsAskedForTheExactPlace(t *testing.T) {
	for _, tt := range []struct {
		field string
		want  api.ResolveRequest
	}{
		{"Authorization: Bearer " + anthropic, api.ResolveRequest{Placeholder: anthropic, Host: "api.anthropic.com", Port: 443, Use: api.Use{Kind: api.UseBearer}}},
		{"x-api-key: " + anthropic, api.ResolveRequest{Placeholder: anthropic, Host: "api.anthropic.com", Port: 443, Use: api.Use{Kind: api.UseHeader, Arg: "x-api-key"}}},
		{"Authorization: " + basic("me:"+github), api.ResolveRequest{Placeholder: github, Host: "github.com", Port: 443, Use: api.Use{Kind: api.UseBasic, Arg: "password"}}},
		{"Authorization: Bearer " + local, api.ResolveRequest{Placeholder: local, Addr: "203.0.113.7", Port: 443, Use: api.Use{Kind: api.UseBearer}}},
	} {
		v := source()
		host := string(tt.want.Host) + tt.want.Addr
		if _, r := New(entries(t), v).Judge(context.Background(), target(host), fieldsOf(tt.field)); r != nil {
			t.Fatalf("%s: refused: %s", tt.field, r.Reason)
		}
		if diff := cmp.Diff([]api.ResolveRequest{tt.want}, v.asked); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.field, diff)
		}
	}
}

func TestResolverErrors(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
		reason string
	}{
		{api.ErrRevoked, 503, ReasonRevoked},
		{api.ErrUnavailable, 503, ReasonUnavailable},
		{errors.New("anything else"), 503, ReasonUnavailable},
		{context.Canceled, 503, ReasonUnavailable},
		{api.ErrUnknown, 403, ReasonUnknown},
		{api.ErrUnbound, 403, ReasonUnbound},
		{api.ErrHost, 403, ReasonMismatch},
	} {
		v := source()
		v.errs[anthropic] = tt.err
		plan, r := New(entries(t), v).Judge(context.Background(), target("api.anthropic.com"), fieldsOf("x-api-key: "+anthropic))
		if plan != nil || r == nil || r.Status != tt.status || r.Reason != tt.reason {
			t.Errorf("%v: got %+v; want %d %s", tt.err, r, tt.status, tt.reason)
		}
	}
}

func TestValuesThatCannotBeSent(t *testing.T) {
	for value, reason := range map[string]string{
		"":              ReasonRevoked,
		"abc":           ReasonInvalid,
		"real-key\r\nX": ReasonInvalid,
		"real-key\n":    ReasonInvalid,
		"real\x00key":   ReasonInvalid,
		"real\x7fkey":   ReasonInvalid,
	} {
		v := source()
		v.of[anthropic] = value
		_, r := New(entries(t), v).Judge(context.Background(), target("api.anthropic.com"), fieldsOf("x-api-key: "+anthropic))
		if r == nil || r.Reason != reason {
			t.Errorf("%q: got %+v; want %s", value, r, reason)
			continue
		}
		if value != "" && strings.Contains(string(r.Body()), value) {
			t.Errorf("%q stands in the refusal", value)
		}
	}
	t.Run("it refuses a user half with a colon", func(t *testing.T) {
		v := source()
		v.of[stripe] = "user:password"
		got := outcome(New(entries(t), v), target("api.stripe.com"), fieldsOf("Authorization: "+basic(stripe+":")))
		if got[0] != ReasonInvalid {
			t.Errorf("got %q", got)
		}
	})
	t.Run("it takes a whole pair", func(t *testing.T) {
		v := source()
		v.of[stripe] = "user:password"
		got := outcome(New(entries(t), v), target("api.stripe.com"), fieldsOf("Authorization: "+basic(stripe)))
		if want := "Authorization: " + basic("user:password"); got[0] != want {
			t.Errorf("got %q; want %q", got[0], want)
		}
	})
}

func TestPlanSaysWhatAnswersMayEcho(t *testing.T) {
	plan, _ := New(entries(t), source()).Judge(context.Background(), target("github.com"), fieldsOf("Authorization: "+basic("me:"+github)))
	pairs := plan.AppendPairs(nil)
	if len(pairs) != 1 || string(pairs[0].Secret()) != "ghp_REAL" || pairs[0].Placeholder != github || pairs[0].Before != "me:" || pairs[0].After != "" {
		t.Fatalf("got %+v", pairs)
	}
	if u := plan.Secrets[0]; u.Name != "GITHUB_TOKEN" || u.Use.String() != "basic:password" {
		t.Errorf("got %s %s", u.Name, u.Use)
	}
}

func TestRefusalBody(t *testing.T) {
	_, r := New(entries(t), source(), Agent("my-agent")).Judge(context.Background(), target("api.x.com"), fieldsOf("x-api-key: "+loose))
	var body struct {
		Error struct{ Type, Reason, Secret, Message, Advice string }
	}
	if err := json.Unmarshal(r.Body(), &body); err != nil {
		t.Fatal(err)
	}
	e := body.Error
	if r.Status != 403 || e.Type != "superserve" || e.Reason != "credential_unbound" || e.Secret != "LOOSE" ||
		!strings.Contains(e.Message, "LOOSE is bound to no host") ||
		e.Advice != "run `superserve secrets bind my-agent LOOSE --host api.x.com`" {
		t.Errorf("got %s", r.Body())
	}
	if strings.Contains(string(r.Body()), loose) {
		t.Error("the refusal quotes the placeholder")
	}
}

func TestBound(t *testing.T) {
	s := New(entries(t), source())
	for _, tt := range []struct {
		host string
		port uint16
		want bool
	}{
		{"api.anthropic.com", 443, true},
		{"api.anthropic.com", 80, false},
		{"x.linear.app", 8443, true},
		{"x.linear.app", 443, false},
		{"api.shown.com", 443, false},
		{"", 443, false},
	} {
		if got := s.Bound(api.Host(tt.host), tt.port); got != tt.want {
			t.Errorf("Bound(%q, %d): got %v", tt.host, tt.port, got)
		}
	}
	if !s.BoundAddr(netip.MustParseAddr("::ffff:203.0.113.7"), 443) || s.BoundAddr(netip.MustParseAddr("203.0.113.8"), 443) {
		t.Error("BoundAddr is wrong")
	}
	if got := len(s.Patterns()); got != 11 {
		t.Errorf("got %d patterns; want 11", got)
	}
}

func TestAllocations(t *testing.T) {
	v := source()
	s := New(entries(t), resolved{v})
	bound, other := target("api.anthropic.com"), target("api.other.com")
	plain, own := fieldsOf("content-type: application/json"), fieldsOf("Authorization: Bearer own", "x-api-key: mine")
	swapped, pair := fieldsOf("x-api-key: "+anthropic), fieldsOf("Authorization: "+basic("me:"+github))
	dst := make([]byte, 0, 512)
	for _, tt := range []struct {
		name string
		most float64
		f    func()
	}{
		{"nothing to do", 0, func() { s.Judge(context.Background(), bound, plain) }},
		{"own credentials at an unbound host", 0, func() { s.Judge(context.Background(), other, own) }},
		{"a header", 2, func() {
			plan, _ := s.Judge(context.Background(), bound, swapped)
			plan.Edits[0].AppendValue(dst)
		}},
		{"Basic", 3, func() {
			plan, _ := s.Judge(context.Background(), target("github.com"), pair)
			plan.Edits[0].AppendValue(dst)
		}},
	} {
		if n := testing.AllocsPerRun(200, tt.f); n > tt.most {
			t.Errorf("%s: %v allocations; want at most %v", tt.name, n, tt.most)
		}
	}
}

// resolved answers without allocating, as a lease's cache does.
type resolved struct{ *values }

func (r resolved) Resolve(_ context.Context, q api.ResolveRequest) (api.Secret, error) {
	if q.Placeholder == github {
		return func() []byte { return realGitHub }, nil
	}
	return func() []byte { return realAnthropic }, nil
}

var realGitHub, realAnthropic = []byte("ghp_REAL"), []byte("sk-ant-REAL")

func FuzzJudge(f *testing.F) {
	f.Add("Authorization", "Bearer "+anthropic, "x-api-key", anthropic)
	f.Add("authorization", basic("me:"+github), "cookie", github)
	f.Add("AUTHORIZATION", "Basic "+anthropic, "X-Linear-Key", `Token token="`+linear+`"`)
	f.Add("x-api-key", forged, "authorization", "Bearer")
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string) {
		fields := []Field{{[]byte(name1), []byte(value1)}, {[]byte(name2), []byte(value2)}}
		for _, host := range []string{"api.anthropic.com", "github.com", "api.evil.com"} {
			plan, refusal := New(entries(t), source()).Judge(context.Background(), target(host), fields)
			if refusal != nil && plan != nil {
				t.Fatal("both a plan and a refusal")
			}
			if refusal != nil || plan == nil {
				continue
			}
			for _, e := range plan.Edits {
				out := string(e.AppendValue(nil))
				if strings.ContainsAny(out, "\r\n\x00") && !strings.ContainsAny(value1+value2, "\r\n\x00") {
					t.Fatalf("an edit broke the line: %q", out)
				}
				if host == "api.evil.com" || strings.Contains(out, "7aRkEr99") {
					t.Fatalf("%s got %q", host, out)
				}
			}
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	s := New(entries(b), resolved{})
	t := target("api.anthropic.com")
	dst := make([]byte, 0, 512)
	for name, fields := range map[string][]Field{"none": fieldsOf("content-type: a", "content-length: 10", "x-stainless-os: Linux", "x-stainless-lang: py", "host: api.anthropic.com"), "header": fieldsOf("x-api-key: " + anthropic)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if plan, _ := s.Judge(context.Background(), t, fields); plan != nil {
					plan.Edits[0].AppendValue(dst)
				}
			}
		})
	}
}
