package web

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/superserve/superserve/proxy/audit"
)

func TestHTTP2Swap(t *testing.T) {
	rig := newH2Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		auth := r.Header.Get("Authorization")
		w.Header().Set("X-Echo", auth)
		w.Header().Set("Trailer", "X-Late")
		half := len(auth) / 2
		io.WriteString(w, auth[:half])
		w.(http.Flusher).Flush()
		io.WriteString(w, auth[half:])
		w.Header().Set("X-Late", auth)
		if auth != "Bearer "+testKey {
			w.Header().Set("X-Late", "wrong key")
		}
	})
	c := rig.client()
	for range 3 {
		res, body := rig.fetch(c, keyed(newRequest(t, "GET", "/v1/echo?secret=1", nil)))
		want := "Bearer " + testPlaceholder
		if string(body) != want || res.Header.Get("X-Echo") != want || res.Trailer.Get("X-Late") != want {
			t.Errorf("echo: got body %q, header %q, trailer %q, want the placeholder", body, res.Header.Get("X-Echo"), res.Trailer.Get("X-Late"))
		}
		mustNotHold(t, "body", body)
	}
	use := rig.records.await(t, func(e audit.Event) bool { return e.Kind == audit.Credential })
	if use.Secret != "TEST_API_KEY" || use.Path != "/v1/echo" || use.Method != "GET" || use.Name != testHost {
		t.Errorf("use was recorded as %+v", use)
	}
	end := rig.records.await(t, func(e audit.Event) bool { return e.Kind == audit.Request })
	if end.Status != 200 || end.Verdict != audit.Allowed || end.Received != int64(len("Bearer ")+len(testKey)) {
		t.Errorf("the request was recorded as %+v", end)
	}
}

func TestHTTP2RecordsBeforeSending(t *testing.T) {
	rig := newH2Rig(t)
	rig.records.fail = errors.New("disk full")
	rig.handle(func(http.ResponseWriter, *http.Request) { t.Error("a request reached the upstream") })
	res, body := rig.fetch(rig.client(), keyed(newRequest(t, "GET", "/", nil)))
	if res.StatusCode != 503 || res.Header.Get("X-Superserve-Error") != "not_recorded" {
		t.Errorf("got %d %s", res.StatusCode, body)
	}
}

func TestHTTP2Refusals(t *testing.T) {
	rig := newH2Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ok" {
			t.Errorf("%s %s reached the upstream", r.Method, r.URL.Path)
		}
	})
	c := rig.client()
	for _, test := range []struct {
		name   string
		change func(*http.Request)
		status int
	}{
		{"another authority", func(r *http.Request) { r.Host = "evil.example.com" }, 421},
		{"another port", func(r *http.Request) { r.Host = testHost + ":8443" }, 421},
		{"a key of the agent's own", func(r *http.Request) { r.Header.Set("Authorization", "Bearer mine") }, 403},
		{"two credentials", func(r *http.Request) { keyed(r).Header.Add("Authorization", "Bearer "+testPlaceholder) }, 403},
		{"an unknown placeholder", func(r *http.Request) { r.Header.Set("X-Api-Key", strings.Replace(testPlaceholder, "a", "b", 1)) }, 403},
		{"a path beyond its limit", func(r *http.Request) { r.URL.Path = "/" + strings.Repeat("a", 17<<10) }, 414},
		{"TRACE", func(r *http.Request) { r.Method = "TRACE" }, 405},
		{"a body on a refused request", func(r *http.Request) {
			r.Host, r.Method, r.Body = "evil.example.com", "POST", io.NopCloser(strings.NewReader(strings.Repeat("x", 1<<20)))
		}, 421},
	} {
		t.Run("it refuses "+test.name, func(t *testing.T) {
			req := newRequest(t, "GET", "/refused", nil)
			test.change(req)
			res, body := rig.fetch(c, req)
			if res.StatusCode != test.status || res.Header.Get("X-Superserve-Error") == "" || !bytes.Contains(body, []byte(`"reason"`)) {
				t.Errorf("got %d %q %s, want %d", res.StatusCode, res.Header.Get("X-Superserve-Error"), body, test.status)
			}
			if res, _ := rig.fetch(c, newRequest(t, "GET", "/ok", nil)); res.StatusCode != 200 {
				t.Errorf("the next request on the connection got %d", res.StatusCode)
			}
		})
	}
}

func TestHTTP2LargeBodies(t *testing.T) {
	const size = 64 << 20
	rig := newH2Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		if err != nil || n != size {
			t.Errorf("upload: %d bytes, %v", n, err)
		}
		w.Header().Set("X-Sum", fmt.Sprintf("%x", h.Sum(nil)))
		io.Copy(w, io.LimitReader(new(pattern), size))
	})
	for _, key := range []bool{false, true} {
		t.Run(fmt.Sprintf("it relays 64 MiB both ways, redacting %v", key), func(t *testing.T) {
			req := newRequest(t, "POST", "/", io.LimitReader(new(pattern), size))
			if key {
				keyed(req)
			}
			res, err := rig.client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			h := sha256.New()
			var n int64
			var peak uint64
			for err == nil {
				var read int64
				read, err = io.CopyN(h, res.Body, 1<<20)
				n += read
				var now runtime.MemStats
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapAlloc)
			}
			if n != size || err != io.EOF {
				t.Fatalf("download: %d bytes, %v", n, err)
			}
			if sum := fmt.Sprintf("%x", h.Sum(nil)); sum != res.Header.Get("X-Sum") {
				t.Errorf("the answer's sum %s differs from the request's", sum)
			}
			if peak > 48<<20 {
				t.Errorf("client, proxy and server held %d MiB for 128 MiB that passed", peak>>20)
			}
		})
	}
}

// pattern is an endless body; its value is the offset of the next byte.
type pattern int

var patternBytes = bytes.Repeat([]byte("0123456789abcdef\n"), 997)

func (at *pattern) Read(p []byte) (int, error) {
	n := copy(p, patternBytes[*at:])
	*at = (*at + pattern(n)) % pattern(len(patternBytes))
	return n, nil
}

func TestHTTP2Trailers(t *testing.T) {
	rig := newH2Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "body")
		w.Header().Set("X-Sum", r.Trailer.Get("X-In"))
	})
	c := rig.client()
	req := newRequest(t, "POST", "/", strings.NewReader("in"))
	req.ContentLength = -1
	req.Trailer = http.Header{"X-In": {"42"}}
	res, _ := rig.fetch(c, req)
	if res.Trailer.Get("X-Sum") != "42" {
		t.Errorf("trailers: got %v, want X-Sum 42", res.Trailer)
	}
	req = newRequest(t, "POST", "/", strings.NewReader("in"))
	req.ContentLength = -1
	req.Trailer = http.Header{"Authorization": {"Bearer " + testPlaceholder}}
	if res, body := rig.fetch(c, req); res.StatusCode != 403 {
		t.Errorf("a credential in trailers: got %d %s, want 403", res.StatusCode, body)
	}
}

func TestHTTP2EarlyAnswers(t *testing.T) {
	rig := newH2Rig(t)
	release := make(chan struct{})
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
		io.WriteString(w, "first")
		w.(http.Flusher).Flush()
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, " %d", n)
		close(release)
	})
	body, feed := io.Pipe()
	res, err := rig.client().Do(newRequest(t, "POST", "/", body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got := make([]byte, 5)
	if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != "first" {
		t.Fatalf("before the request has ended: got %q, %v", got, err)
	}
	feed.Write(make([]byte, 1<<20))
	feed.Close()
	rest, err := io.ReadAll(res.Body)
	if string(rest) != " 1048576" || err != nil {
		t.Errorf("after it: got %q, %v", rest, err)
	}
	<-release
}

func TestHTTP2ConcurrentStreams(t *testing.T) {
	rig := newH2Rig(t)
	var together sync.WaitGroup
	together.Add(100)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		together.Done()
		together.Wait()
		io.Copy(w, r.Body)
	})
	c := rig.client()
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			want := strings.Repeat(fmt.Sprint(i), 10000)
			res, err := c.Do(keyed(newRequest(t, "POST", "/", strings.NewReader(want))))
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if got, err := io.ReadAll(res.Body); string(got) != want || err != nil {
				t.Errorf("stream %d: got %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}

func TestHTTP2Cancel(t *testing.T) {
	rig := newH2Rig(t)
	began, ended := make(chan struct{}), make(chan error, 1)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/after" {
			return
		}
		close(began)
		<-r.Context().Done()
		ended <- r.Context().Err()
	})
	c := rig.client()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-began
		cancel()
	}()
	if _, err := c.Do(newRequest(t, "GET", "/", nil).WithContext(ctx)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the upstream's request was not cancelled")
	}
	if res, _ := rig.fetch(c, newRequest(t, "GET", "/after", nil)); res.StatusCode != 200 {
		t.Errorf("the next request got %d", res.StatusCode)
	}
}

// Each event is written only when the one before has come out at the other end: a
// relay that holds any of them back does not finish.
func TestHTTP2EventsAreNotHeldBack(t *testing.T) {
	rig := newH2Rig(t)
	seen := make(chan struct{})
	const events = 50
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range events {
			fmt.Fprintf(w, "data: {\"i\":%d,\"s\":\"sk-t\"}\n\n", i)
			w.(http.Flusher).Flush()
			<-seen
		}
	})
	res, err := rig.client().Do(keyed(newRequest(t, "GET", "/", nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf := make([]byte, 1024)
	for i := range events {
		want := fmt.Sprintf("data: {\"i\":%d,\"s\":\"sk-t\"}\n\n", i)
		if _, err := io.ReadFull(res.Body, buf[:len(want)]); err != nil || string(buf[:len(want)]) != want {
			t.Fatalf("event %d: got %q, %v", i, buf[:len(want)], err)
		}
		seen <- struct{}{}
	}
	io.Copy(io.Discard, res.Body)
}

func TestHTTP2Codings(t *testing.T) {
	rig := newH2Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Accept-Encoding"); got != "identity" {
			t.Errorf("accept-encoding: got %q, want identity", got)
		}
		coding := r.URL.Query().Get("coding")
		w.Header().Set("Content-Encoding", coding)
		if coding != "gzip" {
			io.WriteString(w, r.Header.Get("Authorization"))
			return
		}
		w.Header().Set("Trailer", "X-Late")
		z := gzip.NewWriter(w)
		for range 50_000 {
			io.WriteString(z, r.Header.Get("Authorization")+"\n")
		}
		z.Close()
		w.Header().Set("X-Late", "yes")
	})
	c := rig.client()
	req := keyed(newRequest(t, "GET", "/?coding=gzip", nil))
	req.Header.Set("Accept-Encoding", "gzip, br")
	res, body := rig.fetch(c, req)
	want := strings.Repeat("Bearer "+testPlaceholder+"\n", 50_000)
	if string(body) != want || res.Header.Get("Content-Encoding") != "" || res.Trailer.Get("X-Late") != "yes" {
		t.Errorf("gzip: got %d bytes, coding %q, trailers %v; want %d", len(body), res.Header.Get("Content-Encoding"), res.Trailer, len(want))
	}
	req = keyed(newRequest(t, "GET", "/?coding=rot13", nil))
	req.Header.Set("Accept-Encoding", "rot13")
	res, body = rig.fetch(c, req)
	if res.StatusCode != 502 || res.Header.Get("X-Superserve-Error") != faultCoding.Reason {
		t.Errorf("unknown coding: got %d %s", res.StatusCode, body)
	}
}
