package web

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/proxy/web/sign"
	"github.com/superserve/superserve/secretd/api"
)

const (
	awsID         = "AKIA7aRkEr99accessaccessaccessaccess"
	awsSecret     = "ssv_7aRkEr99secretsecretsecretsecretsecret"
	awsRealID     = "AKIAREALREALREALREAL"
	awsRealSecret = "real/Secret+Key/of/forty/characters/xxxx"
)

type awsKeys struct{}

func (awsKeys) Resolve(_ context.Context, r api.ResolveRequest) (api.Secret, error) {
	key := []byte(awsRealSecret)
	if r.Placeholder == awsID {
		key = []byte(awsRealID)
	}
	return func() []byte { return key }, nil
}

func awsSwapper() *swap.Swapper {
	b := api.Binding{Hosts: []api.Pattern{{Host: testHost}}, Uses: []api.Use{{Kind: api.UseSigV4}}}
	return swap.New([]api.Entry{
		{Name: "AWS_ACCESS_KEY_ID", Placeholder: awsID, Binding: b},
		{Name: "AWS_SECRET_ACCESS_KEY", Placeholder: awsSecret, Binding: b},
	}, awsKeys{})
}

// headerOf returns a request's fields as a signature covers them.
func headerOf(r *http.Request) func(string) [][]byte {
	return func(name string) [][]byte {
		if name == "host" {
			return [][]byte{[]byte(testHost)}
		}
		var values [][]byte
		for _, v := range r.Header.Values(name) {
			values = append(values, []byte(v))
		}
		return values
	}
}

// TestSignedRequests sends signed requests, the hash of whose content stands nowhere but
// in the signature, to an upstream that verifies them with the real key.
func TestSignedRequests(t *testing.T) {
	const scope, date = "20261123/us-east-1/dynamodb/aws4_request", "20261123T120000Z"
	verify := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		v, ok := sign.ParseField([]byte(r.Header.Get("Authorization")), r.Header.Get("X-Amz-Date"))
		payloads := v.Payloads(nil, body)
		q := &sign.Request{Method: r.Method, Target: []byte(r.URL.RequestURI()), Header: headerOf(r), Payload: payloads[0]}
		if !ok || v.Access != awsRealID || !v.Verify(q, []byte(awsRealSecret)) {
			http.Error(w, "SignatureDoesNotMatch "+v.Access, http.StatusForbidden)
			return
		}
		io.WriteString(w, "verified "+v.Access)
	}
	post := func(t *testing.T, c *http.Client, body string) (*http.Response, []byte) {
		req := newRequest(t, "POST", "/a/b?c=d", strings.NewReader(body))
		req.Header.Set("X-Amz-Date", date)
		req.Header.Set("Accept-Encoding", "gzip, br")
		if len(body) > swap.MaxSigned {
			req.Header.Set("Expect", "100-continue") // else it still writes when the answer comes
		}
		v := sign.V4{Access: awsID, Scope: scope, Time: date, Signed: []string{"accept-encoding", "host", "x-amz-date"}}
		payloads := v.Payloads(nil, []byte(body))
		signature := v.Sign(&sign.Request{Method: "POST", Target: []byte("/a/b?c=d"), Header: headerOf(req), Payload: payloads[0]}, []byte(awsSecret))
		req.Header.Set("Authorization", sign.Algorithm+" Credential="+awsID+"/"+scope+", SignedHeaders="+strings.Join(v.Signed, ";")+", Signature="+signature)
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(res.Body)
		res.Body.Close()
		return res, answer
	}
	f := func(t *testing.T, c *http.Client, most, long int) {
		for _, n := range []int{0, 2, 700 << 10, most} {
			res, answer := post(t, c, strings.Repeat("x", n))
			if res.StatusCode != 200 || bytes.Contains(answer, []byte(awsRealID)) {
				t.Errorf("%d bytes: got %d %.200s", n, res.StatusCode, answer)
			}
		}
		if res, answer := post(t, c, strings.Repeat("x", long)); res.Header.Get("X-Superserve-Error") != swap.ReasonLong {
			t.Errorf("%d bytes: got %d %.200s", long, res.StatusCode, answer)
		}
	}
	t.Run("http1", func(t *testing.T) {
		rig := newH1Rig(t)
		rig.server.swap = awsSwapper()
		rig.handle(verify)
		c := rig.client()
		c.Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
		f(t, c, 9<<20, swap.MaxSigned+1)
		for _, e := range rig.records.all() {
			if e.Kind == audit.Credential && e.Secret == "AWS_SECRET_ACCESS_KEY" {
				return
			}
		}
		t.Error("the use of the secret key was not recorded")
	})
	t.Run("http2", func(t *testing.T) {
		rig := newH2Rig(t)
		rig.server.swap = awsSwapper()
		rig.handle(verify)
		f(t, rig.client(), swap.MaxBody, swap.MaxBody+(64<<10))
	})
}
