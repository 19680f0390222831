package swap

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/superserve/superserve/proxy/web/sign"
)

// streamCase is a request of testdata/chunks.json of proxy/web/sign, which minio-go
// signed.
type streamCase struct {
	Name, Target, Content string
	Fake, Real            signedStream
}

type signedStream struct {
	Fields     [][2]string
	Signatures []string
}

// content writes a content without data.
func (c *streamCase) content(signatures []string) []byte {
	text := c.Content
	for _, s := range signatures {
		text = strings.Replace(text, "%s", s, 1)
	}
	return []byte(strings.Replace(text, "{5}", "01234", 1))
}

func streamCases(t testing.TB) []streamCase {
	t.Helper()
	text, err := os.ReadFile("../web/sign/testdata/chunks.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []streamCase
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(c streamCase) bool { return strings.Contains(c.Content, "000;") })
}

// TestSigV4Chunks lets requests whose contents minio-go signed in chunks with
// placeholders become what it signs with the real keys.
func TestSigV4Chunks(t *testing.T) {
	for _, tt := range streamCases(t) {
		t.Run(tt.Name, func(t *testing.T) {
			s := New(awsEntries(t), awsSource())
			q := (&signedRequest{tt.Target, tt.Fake.Fields}).request("PUT", "")
			to := target(q.host())
			if s.WantsBody(&to, q.Fields) {
				t.Error("the content is read before it is sent")
			}
			plan, refusal := s.JudgeRequest(context.Background(), to, q)
			if refusal != nil {
				t.Fatal(refusal)
			}
			for _, e := range plan.Edits {
				tt.Fake.Fields[e.Index][1] = string(e.AppendValue(nil))
			}
			if !slices.Equal(tt.Fake.Fields, tt.Real.Fields) {
				t.Errorf("got %q\nwant %q", tt.Fake.Fields, tt.Real.Fields)
			}
			c := plan.Chunks()
			defer c.Close()
			out, err := c.Append(nil, tt.content(tt.Fake.Signatures))
			if err != nil || c.End() != nil || !bytes.Equal(out, tt.content(tt.Real.Signatures)) {
				t.Errorf("%v %v %q", err, c.End(), out)
			}
		})
	}
}

func (q *Request) host() string { return string(first(q.values("host"))) }

// TestSigV4OtherSchemes refuses what cannot be made anew, and says so.
func TestSigV4OtherSchemes(t *testing.T) {
	const (
		scope = "/20261123/us-east-1/s3/aws4_request, "
		rest  = "SignedHeaders=host;x-amz-date, Signature=" + "3045022100aa"
	)
	for name, tt := range map[string]struct {
		target, auth, payload string
		want                  string
	}{
		"SigV4A":               {"/", "AWS4-ECDSA-P256-SHA256 Credential=" + awsAccess + "/20261123/s3/aws4_request, " + rest, "", ReasonScheme},
		"SigV4A in a URL":      {"/?X-Amz-Algorithm=AWS4-ECDSA-P256-SHA256&X-Amz-Credential=" + awsAccess + "%2F20261123%2Fs3%2Faws4_request&X-Amz-Signature=30", "", "", ReasonScheme},
		"Signature Version 2":  {"/", "AWS " + awsAccess + ":frJIUN8DYpKDtOLCwo//yllqDzg=", "", ReasonScheme},
		"Version 2 in a URL":   {"/key?AWSAccessKeyId=" + awsAccess + "&Signature=frJIUN8DYpKDtOLCwo%2F%2FyllqDzg%3D&Expires=1", "", "", ReasonSignature},
		"SigV4A without a key": {"/", "AWS4-ECDSA-P256-SHA256 Credential=AKIAIOSFODNN7EXAMPLE" + scope + rest, "", ReasonForeign},
		"half of a signature":  {"/", "AWS4-HMAC-SHA256 Credential=" + awsAccess + scope, "", ReasonPlace},
		"a placeholder alone":  {"/", awsAccess, "", ReasonPlace},
	} {
		r := signedRequest{tt.target, [][2]string{{"Host", "s3.amazonaws.com"}, {"X-Amz-Date", "20261123T120000Z"}}}
		if tt.auth != "" {
			r.Fields = append(r.Fields, [2]string{"Authorization", tt.auth})
		}
		if _, reason := r.sent(New(awsEntries(t), awsSource()), "GET", ""); reason != tt.want {
			t.Errorf("%s: got %q, want %q", name, reason, tt.want)
		}
	}
}

// TestSigV4OtherStreams refuses contents whose own signatures are of another kind,
// though the request's is good.
func TestSigV4OtherStreams(t *testing.T) {
	for _, payload := range []string{
		"STREAMING-AWS4-HMAC-SHA256-EVENTS", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER",
	} {
		r := signedWith(payload)
		if _, reason := r.sent(New(awsEntries(t), awsSource()), "POST", ""); reason != ReasonScheme {
			t.Errorf("%s: got %q, want %q", payload, reason, ReasonScheme)
		}
	}
	r := signedWith("STREAMING-UNSIGNED-PAYLOAD-TRAILER")
	if _, reason := r.sent(New(awsEntries(t), awsSource()), "POST", ""); reason != "" {
		t.Errorf("an unsigned stream: got %q", reason)
	}
}

// signedWith signs a request with the placeholders.
func signedWith(payload string) signedRequest {
	r := signedRequest{"/", [][2]string{
		{"Host", "s3.amazonaws.com"}, {"X-Amz-Date", "20261123T120000Z"}, {"X-Amz-Content-Sha256", payload}, {"Authorization", ""}}}
	v := sign.V4{Scope: "20261123/us-east-1/s3/aws4_request", Time: "20261123T120000Z", Signed: []string{"host", "x-amz-content-sha256", "x-amz-date"}}
	q := r.request("POST", "")
	signature := v.Sign(&sign.Request{Method: "POST", Target: q.Target, Header: q.values, Payload: payload, Path: sign.PathOnce}, []byte(awsSecret))
	r.Fields[3][1] = "AWS4-HMAC-SHA256 Credential=" + awsAccess + "/" + v.Scope + ", SignedHeaders=" + strings.Join(v.Signed, ";") + ", Signature=" + signature
	return r
}
