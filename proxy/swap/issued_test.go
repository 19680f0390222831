package swap

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/proxy/web/sign"
	"github.com/superserve/superserve/secretd/api"
)

const (
	issuedID     = "ASIAREALREALREALREAL"
	issuedSecret = "issued/Real+Secret/RealRealRealRealReal0"
	issuedToken  = "FwoGZXIvYXdzEREALREAL//token+=="
)

func answerOf(id, secret, token string) Answer {
	return Answer{Status: 200, Type: "text/xml", Body: fmt.Appendf(nil,
		"<r><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken></Credentials></r>", id, secret, token)}
}

// signedFor is a request to a host that keys signed.
func signedFor(host, service, id, secret, token string) signedRequest {
	r := signedRequest{"/x", [][2]string{{"Host", host}, {"X-Amz-Date", "20261123T120000Z"}, {"X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"}}}
	v := sign.V4{Scope: "20261123/us-east-1/" + service + "/aws4_request", Time: "20261123T120000Z", Signed: []string{"host", "x-amz-content-sha256", "x-amz-date"}}
	if token != "" {
		r.Fields = append(r.Fields, [2]string{"X-Amz-Security-Token", token})
		v.Signed = append(v.Signed, "x-amz-security-token")
	}
	q := r.request("GET", "")
	signature := v.Sign(&sign.Request{Method: "GET", Target: q.Target, Header: q.values, Payload: "UNSIGNED-PAYLOAD", Path: sign.PathOnce}, []byte(secret))
	r.Fields = append(r.Fields, [2]string{"Authorization",
		sign.Algorithm + " Credential=" + id + "/" + v.Scope + ", SignedHeaders=" + strings.Join(v.Signed, ";") + ", Signature=" + signature})
	return r
}

// assume asks for keys and returns the placeholders of those that came.
func assume(t *testing.T, s *Swapper, service string, a Answer) (sign.Issued, *Plan) {
	t.Helper()
	r := signedFor(service+".amazonaws.com", service, awsAccess, awsSecret, "")
	plan, refusal := s.JudgeRequest(context.Background(), target(service+".amazonaws.com"), r.request("GET", ""))
	if refusal != nil || plan.Capture() == nil {
		t.Fatalf("%v, a capture: %v", refusal, plan.Capture() != nil)
	}
	body, covered, refusal := plan.Capture().Take(context.Background(), a)
	if refusal != nil {
		t.Fatal(refusal)
	}
	if bytes.Contains(body, []byte(issuedSecret)) || bytes.Contains(body, []byte(issuedID)) || bytes.Contains(body, []byte(issuedToken)) {
		t.Fatalf("the answer holds a key: %s", body)
	}
	all, err := sign.FindIssued(body)
	if err != nil || len(all) != 1 {
		t.Fatalf("%v in %s", err, body)
	}
	return all[0], covered
}

// TestIssuedKeys has keys that STS handed out used as the run's own are.
func TestIssuedKeys(t *testing.T) {
	s := New(awsEntries(t), awsSource())
	k, covered := assume(t, s, "sts", answerOf(issuedID, issuedSecret, issuedToken))
	if again, _ := assume(t, s, "iam", answerOf(issuedID, issuedSecret, issuedToken)); string(again.ID.Value) != string(k.ID.Value) {
		t.Error("the same key came with another placeholder")
	}
	pairs := covered.AppendPairs(nil)
	if len(pairs) != 3 || !slices.ContainsFunc(pairs, func(p redact.Pair) bool { return string(p.Secret()) == issuedSecret }) {
		t.Errorf("%d keys are searched for", len(pairs))
	}
	r := signedFor("s3.amazonaws.com", "s3", string(k.ID.Value), string(k.Secret.Value), string(k.Token.Value))
	got, reason := r.sent(s, "GET", "")
	want := signedFor("s3.amazonaws.com", "s3", issuedID, issuedSecret, issuedToken)
	if reason != "" || !slices.Equal(got.Fields, want.Fields) {
		t.Errorf("%s\ngot  %q\nwant %q", reason, got.Fields, want.Fields)
	}
	// Keys that it issues in turn belong to the same secret.
	r = signedFor("sts.amazonaws.com", "sts", string(k.ID.Value), string(k.Secret.Value), string(k.Token.Value))
	plan, refusal := s.JudgeRequest(context.Background(), target("sts.amazonaws.com"), r.request("GET", ""))
	if refusal != nil || plan.Capture() == nil || plan.Capture().parent.Name != "AWS_SECRET_ACCESS_KEY" {
		t.Errorf("a chain of roles: %v", refusal)
	}
}

func TestIssuedKeysStayInTheirPlace(t *testing.T) {
	s := New(awsEntries(t), awsSource())
	k, _ := assume(t, s, "sts", answerOf(issuedID, issuedSecret, issuedToken))
	for name, tt := range map[string]struct {
		r    signedRequest
		want string
	}{
		"as a bearer":                {signedRequest{"/", [][2]string{{"Host", "x.execute-api.us-east-1.amazonaws.com"}, {"Authorization", "Bearer " + string(k.Secret.Value)}}}, ReasonPlace},
		"elsewhere":                  {signedFor("s3.example.com", "s3", string(k.ID.Value), string(k.Secret.Value), ""), ReasonMismatch},
		"with the secret of another": {signedFor("s3.amazonaws.com", "s3", string(k.ID.Value), awsSecret, ""), ReasonSignature},
		"its secret with another id": {signedFor("s3.amazonaws.com", "s3", awsAccess, string(k.Secret.Value), ""), ReasonSignature},
	} {
		if got, reason := tt.r.sent(s, "GET", ""); reason != tt.want {
			t.Errorf("%s: got %q, want %q: %q", name, reason, tt.want, got.Fields)
		}
	}
	source := awsSource()
	s = New(awsEntries(t), source)
	k, _ = assume(t, s, "sts", answerOf(issuedID, issuedSecret, issuedToken))
	source.errs = map[string]error{awsSecret: api.ErrRevoked}
	r := signedFor("s3.amazonaws.com", "s3", string(k.ID.Value), string(k.Secret.Value), "")
	if _, reason := r.sent(s, "GET", ""); reason != ReasonRevoked {
		t.Errorf("after its secret was revoked: got %q", reason)
	}
}

func TestIssuedKeysUnread(t *testing.T) {
	s := New(awsEntries(t), awsSource())
	r := signedFor("sts.amazonaws.com", "sts", awsAccess, awsSecret, "")
	plan, refusal := s.JudgeRequest(context.Background(), target("sts.amazonaws.com"), r.request("GET", ""))
	if refusal != nil {
		t.Fatal(refusal)
	}
	c := plan.Capture()
	if _, _, refusal := c.Take(context.Background(), Answer{Status: 200, Body: []byte("<r><SecretAccessKey>x</r>")}); refusal == nil || refusal.Reason != ReasonUncaptured {
		t.Errorf("an answer that cannot be read: %v", refusal)
	}
	for _, a := range []Answer{{Status: 403, Body: []byte("<r><SecretAccessKey>x</r>")}, {Status: 200, Body: []byte("<r><Arn>x</Arn></r>")}} {
		if body, _, refusal := c.Take(context.Background(), a); refusal != nil || !bytes.Equal(body, a.Body) {
			t.Errorf("%d: %v %q", a.Status, refusal, body)
		}
	}
	r = signedFor("s3.amazonaws.com", "s3", awsAccess, awsSecret, "")
	if plan, _ = s.JudgeRequest(context.Background(), target("s3.amazonaws.com"), r.request("GET", "")); plan.Capture() != nil {
		t.Error("an answer of S3 is searched for keys")
	}
}

// TestPairsByName lets names that say nothing be any pair, and names that do be one.
func TestPairsByName(t *testing.T) {
	bind := func(name, text string) api.Entry {
		return api.Entry{Name: name, Placeholder: text, Binding: api.Binding{Hosts: patterns(t, "s3.r2.example"), Uses: uses(t, "sigv4")}}
	}
	entries := []api.Entry{bind("S3_KEY", awsAccess), bind("S3_SECRET", awsSecret)}
	r := signedFor("s3.r2.example", "s3", awsAccess, awsSecret, "")
	if _, reason := r.sent(New(entries, awsSource()), "GET", ""); reason != "" {
		t.Errorf("names of their own: got %q", reason)
	}
}
