package web

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/web/sign"
)

const (
	chunkScope  = "20261123/us-east-1/s3/aws4_request"
	chunkDate   = "20261123T120000Z"
	chunkWord   = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	trailerWord = chunkWord + "-TRAILER"
	crc         = "x-amz-checksum-crc32:AAAAAA=="
)

// chunked are keys and scope of contents in signed chunks.
type chunked struct{ secret, scope, date string }

// signedContent is data in signed chunks of a size, written after AWS's description and
// not with what is tested.
func signedContent(k chunked, seed string, data []byte, size int, trailer string) []byte {
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		io.WriteString(h, text)
		return h.Sum(nil)
	}
	key := []byte("AWS4" + k.secret)
	for part := range strings.SplitSeq(k.scope, "/") {
		key = mac(key, part)
	}
	var out []byte
	for ended := false; !ended; data = data[min(size, len(data)):] {
		chunk := data[:min(size, len(data))]
		seed = hex.EncodeToString(mac(key, fmt.Sprintf("AWS4-HMAC-SHA256-PAYLOAD\n%s\n%s\n%s\n%x\n%x", k.date, k.scope, seed, sha256.Sum256(nil), sha256.Sum256(chunk))))
		out = fmt.Appendf(out, "%x;chunk-signature=%s\r\n", len(chunk), seed)
		if ended = len(chunk) == 0; !ended {
			out = append(append(out, chunk...), "\r\n"...)
		}
	}
	if trailer != "" {
		seed = hex.EncodeToString(mac(key, fmt.Sprintf("AWS4-HMAC-SHA256-TRAILER\n%s\n%s\n%s\n%x", k.date, k.scope, seed, sha256.Sum256([]byte(trailer+"\n")))))
		out = fmt.Appendf(out, "%s\r\nx-amz-trailer-signature:%s\r\n", trailer, seed)
	}
	return append(out, "\r\n"...)
}

// signedPut is a request that uploads data in signed chunks.
func signedPut(t testing.TB, data []byte, size int, trailer bool) (*http.Request, []byte) {
	t.Helper()
	word, last := chunkWord, ""
	req := newRequest(t, "PUT", "/bucket/a%20key", nil)
	if trailer {
		word, last = trailerWord, crc
		req.Header.Set("X-Amz-Trailer", "x-amz-checksum-crc32")
	}
	req.Header.Set("X-Amz-Date", chunkDate)
	req.Header.Set("Content-Encoding", "aws-chunked")
	req.Header.Set("Content-Type", "application/json") // a binding for JSON must not matter
	req.Header.Set("X-Amz-Content-Sha256", word)
	req.Header.Set("X-Amz-Decoded-Content-Length", fmt.Sprint(len(data)))
	v := sign.V4{Access: awsID, Scope: chunkScope, Time: chunkDate,
		Signed: []string{"content-encoding", "host", "x-amz-content-sha256", "x-amz-date", "x-amz-decoded-content-length"}}
	seed := v.Sign(&sign.Request{Method: "PUT", Target: []byte("/bucket/a%20key"), Header: headerOf(req), Payload: word, Path: sign.PathOnce}, []byte(awsSecret))
	req.Header.Set("Authorization", sign.Algorithm+" Credential="+awsID+"/"+chunkScope+", SignedHeaders="+strings.Join(v.Signed, ";")+", Signature="+seed)
	content := signedContent(chunked{awsSecret, chunkScope, chunkDate}, seed, data, size, last)
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(content)), int64(len(content))
	return req, content
}

// chunkServer verifies what it gets with the real key.
type chunkServer struct {
	mu    sync.Mutex
	whole int // contents that ended as they should
}

func (s *chunkServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		s.mu.Lock()
		s.whole++
		s.mu.Unlock()
	}
	v, ok := sign.ParseField([]byte(r.Header.Get("Authorization")), r.Header.Get("X-Amz-Date"))
	q := &sign.Request{Method: r.Method, Target: []byte(r.URL.RequestURI()), Header: headerOf(r), Payload: r.Header.Get("X-Amz-Content-Sha256")}
	if !ok || v.Access != awsRealID || !v.Verify(q, []byte(awsRealSecret)) {
		http.Error(w, "SignatureDoesNotMatch", http.StatusForbidden)
		return
	}
	var data []byte
	size := 0
	in := bufio.NewReader(bytes.NewReader(body))
	for {
		var n int
		line, _ := in.ReadString('\n')
		if _, err := fmt.Sscanf(line, "%x;", &n); err != nil || n == 0 {
			break
		}
		size = max(size, n)
		chunk := make([]byte, n+2)
		io.ReadFull(in, chunk)
		data = append(data, chunk[:n]...)
	}
	last := ""
	if q.Payload == trailerWord {
		last = crc
	}
	want := signedContent(chunked{awsRealSecret, chunkScope, chunkDate}, v.Signature, data, max(size, 1), last)
	if !bytes.Equal(body, want) || r.Header.Get("Content-Encoding") != "aws-chunked" || r.Header.Get("X-Amz-Decoded-Content-Length") != fmt.Sprint(len(data)) {
		http.Error(w, "SignatureDoesNotMatch in a chunk", http.StatusForbidden)
		return
	}
	fmt.Fprintf(w, "verified %d", len(data))
}

func (s *chunkServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole
}

// uploads are contents in signed chunks, by their length, the chunks' and whether there
// is a trailer.
var uploads = []struct {
	length, size int
	trailer      bool
}{
	{0, 1, false}, {0, 1, true}, {5, 8192, false}, {5, 8192, true}, {20000, 8192, true}, {700 << 10, 64 << 10, false}, {1 << 20, 128 << 10, true}, {3 << 20, sign.MaxChunk, true},
}

func putSigned(t *testing.T, c *http.Client, unknown bool) {
	for _, u := range uploads {
		req, content := signedPut(t, bytes.Repeat([]byte("0123456789abcdef"), u.length/16+1)[:u.length], u.size, u.trailer)
		if unknown {
			req.ContentLength = -1
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatalf("%+v: %v", u, err)
		}
		answer, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 200 || string(answer) != fmt.Sprint("verified ", u.length) {
			t.Errorf("%+v, %d bytes: got %d %.300s", u, len(content), res.StatusCode, answer)
		}
	}
}

// TestSignedChunks uploads contents in signed chunks to an upstream that verifies each
// chunk with the real key.
func TestSignedChunks(t *testing.T) {
	t.Run("http1", func(t *testing.T) {
		rig := newH1Rig(t)
		rig.server.swap = awsSwapper()
		rig.handle(new(chunkServer).ServeHTTP)
		c := rig.client()
		putSigned(t, c, false)
		putSigned(t, c, true)
	})
	t.Run("http2", func(t *testing.T) {
		rig := newH2Rig(t)
		rig.server.swap = awsSwapper()
		rig.handle(new(chunkServer).ServeHTTP)
		c := rig.client()
		putSigned(t, c, false)
		putSigned(t, c, true)
	})
	t.Run("http2 with small windows", func(t *testing.T) {
		rig := newH2Rig(t)
		rig.server.swap = awsSwapper()
		rig.handleWith(new(chunkServer).ServeHTTP, &http2.Server{
			MaxConcurrentStreams: 250, MaxUploadBufferPerStream: 16 << 10, MaxUploadBufferPerConnection: 65535,
		})
		c := rig.client()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { putSigned(t, c, false) })
		}
		wg.Wait()
	})
}

// TestSignedChunksRefused uploads contents with a chunk that was not signed with the
// placeholder: the upstream never sees their end, and the client learns why.
func TestSignedChunksRefused(t *testing.T) {
	f := func(t *testing.T, c *http.Client, up *chunkServer) {
		data := bytes.Repeat([]byte("0123456789abcdef"), 20<<10)
		for name, tt := range map[string]struct {
			change func(content []byte) []byte
			reason string
		}{
			"the first chunk":  {func(b []byte) []byte { b[200] ^= 1; return b }, "credential_signature"},
			"a later chunk":    {func(b []byte) []byte { b[200<<10] ^= 1; return b }, "credential_signature"},
			"the trailer":      {func(b []byte) []byte { b[bytes.Index(b, []byte("AAAAAA"))] = 'B'; return b }, "credential_signature"},
			"a missing end":    {func(b []byte) []byte { return b[:len(b)-2] }, "bad_signed_chunk"},
			"no chunks":        {func(b []byte) []byte { return data }, "bad_signed_chunk"},
			"a chunk too many": {func(b []byte) []byte { return append(b, "0;"...) }, "bad_signed_chunk"},
			"a long chunk":     {func(b []byte) []byte { return append([]byte("7f"), b...) }, "signed_chunk_too_long"},
		} {
			before := up.count()
			req, content := signedPut(t, data, 64<<10, true)
			content = tt.change(content)
			req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(content)), int64(len(content))
			res, err := c.Do(req)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			answer, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.Header.Get("X-Superserve-Error") != tt.reason || !strings.Contains(string(answer), tt.reason) {
				t.Errorf("%s: got %d %.300s; want %s", name, res.StatusCode, answer, tt.reason)
			}
			if up.count() != before {
				t.Errorf("%s: the upstream got a whole content", name)
			}
		}
		putSigned(t, c, false)
	}
	t.Run("http1", func(t *testing.T) {
		rig, up := newH1Rig(t), &chunkServer{}
		rig.server.swap = awsSwapper()
		rig.handle(up.ServeHTTP)
		f(t, rig.client(), up)
		for _, e := range rig.records.all() {
			if e.Kind == audit.Request && e.Reason == "credential_signature" && e.Verdict == audit.Refused {
				return
			}
		}
		t.Error("the refusal was not recorded")
	})
	t.Run("http2", func(t *testing.T) {
		rig, up := newH2Rig(t), &chunkServer{}
		rig.server.swap = awsSwapper()
		rig.handle(up.ServeHTTP)
		f(t, rig.client(), up)
	})
}

func TestUndone(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "gzip": "gzip", "aws-chunked": "", "AWS-Chunked ,gzip, br": "gzip, br", "aws-chunked, gzip": "gzip",
		"aws-chunkedx": "aws-chunkedx", "gzip, aws-chunked": "gzip, aws-chunked",
	} {
		if got := string(undone([]byte(in))); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
