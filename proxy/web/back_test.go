package web

import (
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// Ways in which a key comes back beside the answer to the request that carried it.

// backRigs runs f over both versions of HTTP. Each call of client gives a client with connections of its own.
func backRigs(t *testing.T, f func(t *testing.T, handle func(http.HandlerFunc), client func() *http.Client)) {
	t.Run("http1", func(t *testing.T) {
		rig := newH1Rig(t)
		f(t, rig.handle, rig.client)
	})
	t.Run("http2", func(t *testing.T) {
		rig := newH2Rig(t)
		f(t, rig.handle, rig.client)
	})
}

// inspector shows on /last and /tail what /anything was sent, as services do that catch requests for their developer.
type inspector struct {
	mu   sync.Mutex
	last string
	more chan struct{} // closed when /anything was asked
}

func (i *inspector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	coded := r.URL.Query().Get("coding") == "gzip"
	if coded {
		w.Header().Set("Content-Encoding", "gzip")
	}
	switch r.URL.Path {
	case "/anything":
		i.mu.Lock()
		i.last = r.Header.Get("Authorization")
		i.mu.Unlock()
		close(i.more)
		return
	case "/tail":
		w.(http.Flusher).Flush()
		<-i.more
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	text := "the last request had " + i.last
	if coded {
		text = gzipped(text)
	}
	io.WriteString(w, text)
}

func TestKeyComesBackOnAnotherConnection(t *testing.T) {
	for _, coding := range []string{"", "gzip"} {
		backRigs(t, func(t *testing.T, handle func(http.HandlerFunc), client func() *http.Client) {
			handle((&inspector{more: make(chan struct{})}).ServeHTTP)
			get := func(c *http.Client, path string) *http.Response {
				req := newRequest(t, "GET", path+"?coding="+coding, nil)
				req.Header.Set("Accept-Encoding", "gzip") // else the client decodes for itself
				if path == "/anything" {
					keyed(req)
				}
				res, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { res.Body.Close() })
				return res
			}
			check := func(what string, res *http.Response) {
				t.Helper()
				body, err := io.ReadAll(res.Body)
				if want := "the last request had Bearer " + testPlaceholder; err != nil || string(body) != want {
					t.Errorf("%s in coding %q: got %q, %v; want %q", what, coding, body, err, want)
				}
			}
			early := get(client(), "/tail")
			get(client(), "/anything").Body.Close()
			check("an answer that began before", early)
			check("an answer on another connection", get(client(), "/last"))
		})
	}
}

// TestKeyInTheNameOfAField has one that is a token of HTTP/2 too: the key in hex.
func TestKeyInTheNameOfAField(t *testing.T) {
	backRigs(t, func(t *testing.T, handle func(http.HandlerFunc), client func() *http.Client) {
		handle(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(fmt.Sprintf("x-%x", r.Header.Get("Authorization")), "1")
		})
		res, err := client().Do(keyed(newRequest(t, "GET", "/", nil)))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		for name := range res.Header {
			if strings.Contains(strings.ToLower(name), fmt.Sprintf("%x", testKey)) {
				t.Errorf("the agent got the field %s", name)
			}
		}
	})
}

// TestTokensInHeadersAreCaptured has a provider that repeats a token in a cookie, as sign-ins do.
func TestTokensInHeadersAreCaptured(t *testing.T) {
	oauthRigs(t, func(t *testing.T, c *http.Client, p *provider, _ *vault) {
		p.mu.Lock()
		p.cookie = true
		p.mu.Unlock()
		req := newRequest(t, "POST", "/token", strings.NewReader(refreshForm().Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if got := res.Header.Get("Set-Cookie"); !strings.HasPrefix(got, "session=") || strings.Contains(got, "REAL") {
			t.Errorf("the agent got the cookie %q", got)
		}
	})
}

// TestTokenOutlivesOthers has a token come back when so many others came after it that it is not searched for any more
// in general.
func TestTokenOutlivesOthers(t *testing.T) {
	oauthRigs(t, func(t *testing.T, c *http.Client, p *provider, _ *vault) {
		token := func() string {
			_, _, body := askTokens(t, c, refreshForm())
			var got struct {
				Access string `json:"access_token"`
			}
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatal(err)
			}
			return got.Access
		}
		first := token()
		asked, release := make(chan struct{}), make(chan struct{})
		p.mu.Lock()
		p.slow = func() { close(asked); <-release }
		p.mu.Unlock()
		answer := make(chan string, 1)
		go func() {
			req := newRequest(t, "GET", "/slow", nil)
			req.Header.Set("Authorization", "Bearer "+first)
			res, err := c.Do(req)
			if err != nil {
				answer <- err.Error()
				return
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			answer <- fmt.Sprint(res.Header.Get("X-Echo"), " ", string(body), " ", res.Trailer.Get("X-End"))
		}()
		<-asked
		for range 70 {
			token()
		}
		close(release)
		if got, want := <-answer, fmt.Sprintf("Bearer %[1]s you came with Bearer %[1]s Bearer %[1]s", first); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	})
}

// TestHiddenMessagesAreRefused has answers that say their messages are compressed one by one, as gRPC's and Connect's do, which
// speak both versions of HTTP.
func TestHiddenMessagesAreRefused(t *testing.T) {
	for _, field := range []string{"Grpc-Encoding", "Connect-Content-Encoding"} {
		backRigs(t, func(t *testing.T, handle func(http.HandlerFunc), client func() *http.Client) {
			accepts := ""
			handle(func(w http.ResponseWriter, r *http.Request) {
				accepts = r.Header.Get(strings.Replace(strings.Replace(field, "Content-", "", 1), "Encoding", "Accept-Encoding", 1))
				w.Header().Set(field, r.URL.Query().Get("coding"))
				io.WriteString(w, gzipped(r.Header.Get("Authorization")))
			})
			for coding, want := range map[string]int{"gzip": 502, "identity": 200} {
				req := keyed(newRequest(t, "POST", "/?coding="+coding, nil))
				req.Header.Set("Grpc-Accept-Encoding", "gzip")
				req.Header.Set("Connect-Accept-Encoding", "gzip")
				res, err := client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				if res.StatusCode != want {
					t.Errorf("%s: %s is answered %d, want %d", field, coding, res.StatusCode, want)
				}
				if accepts != "identity" {
					t.Errorf("%s: the upstream was asked for %q", field, accepts)
				}
			}
		})
	}
}

// TestEndOfContentBehindItsCoding has contents whose coding ends before they do: what follows is no next answer.
func TestEndOfContentBehindItsCoding(t *testing.T) {
	codings := map[string]func(io.Writer) io.WriteCloser{
		"gzip":    func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"deflate": func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
		"br":      func(w io.Writer) io.WriteCloser { return brotli.NewWriter(w) },
		"zstd": func(w io.Writer) io.WriteCloser {
			z, _ := zstd.NewWriter(w)
			return z
		},
	}
	for coding, pack := range codings {
		backRigs(t, func(t *testing.T, handle func(http.HandlerFunc), client func() *http.Client) {
			read := make(chan struct{}, 1)
			handle(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", coding)
				z := pack(w)
				io.WriteString(z, "hello")
				z.(interface{ Flush() error }).Flush()
				w.(http.Flusher).Flush()
				z.Close()
				w.(http.Flusher).Flush()
				<-read
			})
			c := client()
			c.Timeout = time.Minute
			for range 3 {
				res, err := c.Do(keyed(newRequest(t, "GET", "/", nil)))
				if err != nil {
					t.Fatalf("%s: %v", coding, err)
				}
				text := make([]byte, len("hello"))
				if _, err := io.ReadFull(res.Body, text); err != nil || string(text) != "hello" {
					t.Fatalf("%s: got %q, %v", coding, text, err)
				}
				read <- struct{}{}
				if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 || res.StatusCode != 200 {
					t.Fatalf("%s: then %d %q, %v", coding, res.StatusCode, rest, err)
				}
				res.Body.Close()
			}
		})
	}
}
