package web

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/proxy"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/proxy/web/sign/s3test"
	"github.com/superserve/superserve/secretd/api"
)

// s3Fake are the placeholders that the agent signs with.
var s3Fake = s3test.Keys{ID: awsID, Secret: awsSecret, Token: "ssv_7aRkEr99tokentokentokentokentoken"}

// s3Keys resolves s3Fake.
type s3Keys struct{ real s3test.Keys }

func (k s3Keys) Resolve(_ context.Context, r api.ResolveRequest) (api.Secret, error) {
	value := map[string]string{s3Fake.ID: k.real.ID, s3Fake.Secret: k.real.Secret, s3Fake.Token: k.real.Token}[r.Placeholder]
	return func() []byte { return []byte(value) }, nil
}

// s3Rig is an agent that talks to a real server of S3.
type s3Rig struct {
	*s3test.Server
	t      *testing.T
	client *http.Client
	fake   s3test.Keys
}

func newS3Rig(t *testing.T, server *s3test.Server, real s3test.Keys) *s3Rig {
	rig := newH1Rig(t)
	b := api.Binding{Hosts: []api.Pattern{{Host: "amazonaws.com", Wild: true}}, Uses: []api.Use{{Kind: api.UseSigV4}}}
	rig.server.swap = swap.New([]api.Entry{
		{Name: "AWS_ACCESS_KEY_ID", Placeholder: s3Fake.ID, Binding: b},
		{Name: "AWS_SECRET_ACCESS_KEY", Placeholder: s3Fake.Secret, Binding: b},
		{Name: "AWS_SESSION_TOKEN", Placeholder: s3Fake.Token, Binding: b},
	}, s3Keys{real})
	rig.dialer.addr = server.Addr.String()
	rig.dialer.config.RootCAs = server.Roots
	rig.onConn(func(c *proxy.Conn) { c.Host, c.Hello.ServerName = s3test.BucketHost, s3test.BucketHost })
	r := &s3Rig{Server: server, t: t, client: rig.client(), fake: s3Fake}
	r.client.Transport.(*http.Transport).TLSClientConfig.ServerName = s3test.BucketHost
	if real.Token == "" {
		r.fake.Token = ""
	}
	return r
}

// do sends a request and returns the answer's status and content.
func (r *s3Rig) do(req *http.Request, content []byte) (*http.Response, string) {
	r.t.Helper()
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(content)), int64(len(content))
	if len(content) == 0 {
		req.Body = http.NoBody
	}
	res, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	res.Body.Close()
	return res, string(body)
}

func (r *s3Rig) request(method, target string) *http.Request {
	r.t.Helper()
	req, err := http.NewRequest(method, "https://"+s3test.BucketHost+target, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return req
}

func crcOf(data []byte) string {
	return "x-amz-checksum-crc32:" + base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(data)))
}

// upload is a request with content, in one of S3's ways.
func (r *s3Rig) upload(way, key string, data []byte) (*http.Request, []byte) {
	now := time.Now()
	req := r.request("PUT", "/"+key)
	if way == "presigned" {
		signed, err := http.NewRequest("PUT", s3test.Presign("PUT", req.URL.String(), r.fake, now), nil)
		if err != nil {
			r.t.Fatal(err)
		}
		return signed, data
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	trailer := ""
	if strings.HasPrefix(way, "STREAMING") {
		req.Header.Set("Content-Encoding", "aws-chunked")
		req.Header.Set("X-Amz-Decoded-Content-Length", fmt.Sprint(len(data)))
	}
	if strings.HasSuffix(way, "TRAILER") {
		trailer = crcOf(data)
		req.Header.Set("X-Amz-Trailer", "x-amz-checksum-crc32")
	}
	if way != "signed" {
		req.Header.Set("X-Amz-Content-Sha256", way)
	}
	seed := s3test.Sign(req, r.fake, "s3", now, data)
	date := req.Header.Get("X-Amz-Date")
	switch way {
	case chunkWord, trailerWord:
		return req, signedContent(chunked{r.fake.Secret, date[:8] + "/" + s3test.Region + "/s3/aws4_request", date}, seed, data, 64<<10, trailer)
	case "STREAMING-UNSIGNED-PAYLOAD-TRAILER":
		return req, fmt.Appendf(nil, "%x\r\n%s\r\n0\r\n%s\r\n\r\n", len(data), data, trailer)
	}
	return req, data
}

// TestS3 has a real server of S3 judge the signatures that are made with real keys.
func TestS3(t *testing.T) {
	server := s3test.Start(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 20<<10)
	for _, real := range []s3test.Keys{server.Account, server.Session} {
		rig := newS3Rig(t, server, real)
		for _, way := range []string{"signed", "UNSIGNED-PAYLOAD", "presigned", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", chunkWord, trailerWord} {
			key := "a%20folder/" + strings.ToLower(way) + "%2B%C3%A9"
			req, content := rig.upload(way, key, data)
			if res, answer := rig.do(req, content); res.StatusCode != 200 {
				t.Errorf("%s, %s: got %d %s", real.ID[:4], way, res.StatusCode, answer)
				continue
			}
			get := rig.request("GET", "/"+key)
			s3test.Sign(get, rig.fake, "s3", time.Now(), nil)
			if res, answer := rig.do(get, nil); res.StatusCode != 200 || answer != string(data) {
				t.Errorf("%s, %s: reads %d, %d bytes", real.ID[:4], way, res.StatusCode, len(answer))
			}
			url := s3test.Presign("GET", rig.request("GET", "/"+key).URL.String(), rig.fake, time.Now())
			get, _ = http.NewRequest("GET", url, nil)
			if res, answer := rig.do(get, nil); res.StatusCode != 200 || answer != string(data) {
				t.Errorf("%s, %s: by its URL reads %d, %d bytes %.300s", real.ID[:4], way, res.StatusCode, len(answer), answer)
			}
		}
		list := rig.request("GET", "/?list-type=2&prefix=a%20folder%2F&delimiter=%2F")
		s3test.Sign(list, rig.fake, "s3", time.Now(), nil)
		if res, answer := rig.do(list, nil); strings.Count(answer, "<Key>") != 6 {
			t.Errorf("lists %d %s", res.StatusCode, answer)
		}
	}
}

// TestS3RefusesOthers shows that neither a wrong key nor a broken content comes through.
func TestS3RefusesOthers(t *testing.T) {
	server := s3test.Start(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 20<<10)
	wrong := server.Account
	wrong.Secret = "wr0ng/Real+Real/RealRealRealRealRealReal"
	for _, way := range []string{"signed", "presigned", chunkWord} {
		rig := newS3Rig(t, server, wrong)
		req, content := rig.upload(way, "wrong", data)
		if res, answer := rig.do(req, content); res.StatusCode != 403 || !strings.Contains(answer, "<Code>SignatureDoesNotMatch</Code>") {
			t.Errorf("a wrong key, %s: got %d %s", way, res.StatusCode, answer)
		}
	}
	rig := newS3Rig(t, server, server.Account)
	req, content := rig.upload(trailerWord, "broken", data)
	content[len(content)/2] ^= 1
	if res, _ := rig.do(req, content); res.Header.Get("X-Superserve-Error") != swap.ReasonSignature {
		t.Errorf("a broken chunk: got %d", res.StatusCode)
	}
	for _, key := range []string{"wrong", "broken"} {
		if _, err := os.Stat(filepath.Join(server.Folder, s3test.Bucket, key)); !os.IsNotExist(err) {
			t.Errorf("the object %s is there: %v", key, err)
		}
	}
}
