package swap

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/secretd/api"
)

const (
	awsAccess = "AKIA7aRkEr99accessaccessaccessaccess"
	awsSecret = "ssv_7aRkEr99secretsecretsecretsecretsecret"
	awsToken  = "ssv_7aRkEr99tokentokentokentokentoken"
)

func awsEntries(t testing.TB) []api.Entry {
	bind := func(name, placeholder string) api.Entry {
		return api.Entry{Name: name, Placeholder: placeholder, Binding: api.Binding{Hosts: patterns(t, "*.amazonaws.com"), Uses: uses(t, "sigv4")}}
	}
	return []api.Entry{
		bind("OTHER_AWS_SECRET_ACCESS_KEY", "ssv_7aRkEr99othersecretothersecretother"),
		bind("AWS_ACCESS_KEY_ID", awsAccess), bind("AWS_SECRET_ACCESS_KEY", awsSecret), bind("AWS_SESSION_TOKEN", awsToken),
	}
}

func awsSource() *values {
	return &values{of: map[string]string{
		awsAccess: "AKIAREALREALREALREAL", awsSecret: "real/Secret+Key/of/forty/characters/xxxx", awsToken: "FwoGZXIvYXdzEREAL//token+==",
	}}
}

// signedRequest is a request in testdata/sigv4.json.
type signedRequest struct {
	Target string
	Fields [][2]string
}

func (r *signedRequest) request(method, body string) Request {
	q := Request{Method: method, Target: []byte(r.Target), Content: []byte(body)}
	for _, f := range r.Fields {
		q.Fields = append(q.Fields, Field{[]byte(f[0]), []byte(f[1])})
	}
	return q
}

// sent returns the request as the plan changes it, or a reason.
func (r *signedRequest) sent(s *Swapper, method, body string) (signedRequest, string) {
	q := r.request(method, body)
	host := r.Fields[0][1]
	plan, refusal := s.JudgeRequest(context.Background(), target(host), q)
	if refusal != nil {
		return signedRequest{}, refusal.Reason
	}
	out := signedRequest{Target: r.Target, Fields: append([][2]string{}, r.Fields...)}
	if plan.Target() {
		out.Target = string(plan.AppendTarget(nil))
	}
	if plan != nil {
		for _, e := range plan.Edits {
			out.Fields[e.Index][1] = string(e.AppendValue(nil))
		}
	}
	return out, ""
}

type signedCase struct {
	Name, Method, Body string
	Fake, Real         signedRequest
}

func signedCases(t testing.TB) []signedCase {
	t.Helper()
	text, err := os.ReadFile("testdata/sigv4.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []signedCase
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

// TestSigV4 lets requests that botocore signed with placeholders become what botocore
// signs with the real keys.
func TestSigV4(t *testing.T) {
	for _, tt := range signedCases(t) {
		t.Run(tt.Name, func(t *testing.T) {
			got, reason := tt.Fake.sent(New(awsEntries(t), awsSource()), tt.Method, tt.Body)
			if reason != "" {
				t.Fatalf("refused: %s", reason)
			}
			if diff := cmp.Diff(tt.Real, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestSigV4Refuses(t *testing.T) {
	base := signedCases(t)[0]
	auth := func(f func(string) string) signedRequest {
		r := signedRequest{Target: base.Fake.Target, Fields: append([][2]string{}, base.Fake.Fields...)}
		for i := range r.Fields {
			if r.Fields[i][0] == "Authorization" {
				r.Fields[i][1] = f(r.Fields[i][1])
			}
		}
		return r
	}
	other := auth(func(s string) string { return s })
	other.Target = "/another"
	away := auth(func(s string) string { return s })
	away.Fields[0][1] = "bucket.evil.com"
	for name, tt := range map[string]struct {
		r    signedRequest
		want string
	}{
		"another target":   {other, ReasonSignature},
		"another host":     {away, ReasonMismatch},
		"another key's id": {auth(func(s string) string { return strings.Replace(s, awsAccess, "AKIAIOSFODNN7EXAMPLE", 1) }), ""},
		"an own signature": {auth(func(s string) string {
			return strings.Replace(s[:len(s)-4]+"0000", awsAccess, "AKIAIOSFODNN7EXAMPLE", 1)
		}), ReasonForeign},
		"a changed signature":     {auth(func(s string) string { return s[:len(s)-4] + "0000" }), ReasonSignature},
		"a signature of no shape": {auth(func(s string) string { return s + ", Signature=1" }), ReasonPlace},
	} {
		got, reason := tt.r.sent(New(awsEntries(t), awsSource()), base.Method, base.Body)
		if reason != tt.want {
			t.Errorf("%s: got %q %v; want %q", name, reason, got, tt.want)
		}
		if tt.want == "" && strings.Contains(got.Fields[len(got.Fields)-1][1], "AKIAREAL") {
			t.Errorf("%s: the id was replaced", name)
		}
	}
	sts := signedCases(t)[slices.IndexFunc(signedCases(t), func(c signedCase) bool { return c.Name == "sts" })]
	q := sts.Fake.request(sts.Method, "cut")
	q.Cut = true
	if _, refusal := New(awsEntries(t), awsSource()).JudgeRequest(context.Background(), target("sts.amazonaws.com"), q); refusal == nil || refusal.Reason != ReasonLong {
		t.Errorf("a long content: %v", refusal)
	}
	v := awsSource()
	v.errs = map[string]error{awsSecret: api.ErrRevoked}
	if _, reason := base.Fake.sent(New(awsEntries(t), v), base.Method, base.Body); reason != ReasonRevoked {
		t.Errorf("a revoked key: got %q", reason)
	}
}

func FuzzSigV4(f *testing.F) {
	for _, c := range signedCases(f)[:4] {
		f.Add(c.Fake.Target, c.Fake.Fields[len(c.Fake.Fields)-1][1], c.Body)
	}
	f.Fuzz(func(t *testing.T, uri, auth, body string) {
		r := signedRequest{Target: uri, Fields: [][2]string{
			{"Host", "s3.amazonaws.com"}, {"X-Amz-Date", "20261123T120000Z"}, {"Authorization", auth}}}
		got, reason := r.sent(New(awsEntries(t), awsSource()), "GET", body)
		if reason == "" && strings.Contains(got.Fields[2][1]+got.Target, "7aRkEr99secret") && !strings.Contains(auth+uri, "7aRkEr99secret") {
			t.Fatalf("%q", got)
		}
	})
}
