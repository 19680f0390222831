package web

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/api"
)

// The second secret of these tests, of another length than its placeholder.
const (
	placeToken = "ssv_Zq81Lw0pRUN00001tokentokentokentoken"
	placeKey   = "123:REAL/token+of the second"
)

// placeSwapper binds both secrets to the rig's host by uses.
func placeSwapper(t testing.TB) *swap.Swapper {
	t.Helper()
	entry := func(name, placeholder string, uses ...string) api.Entry {
		e := api.Entry{Name: name, Placeholder: placeholder, Binding: api.Binding{Hosts: []api.Pattern{{Host: testHost}}}}
		for _, s := range uses {
			u, err := api.ParseUse(s)
			if err != nil {
				t.Fatal(err)
			}
			e.Binding.Uses = append(e.Binding.Uses, u)
		}
		return e
	}
	return swap.New([]api.Entry{
		entry("TEST_API_KEY", testPlaceholder, "bearer", "query:key", "cookie:sid", "form:client_secret", "json:client_secret"),
		entry("TEST_TOKEN", placeToken, "path", "query:sig", "json:auth.token"),
	}, placeKeys{})
}

type placeKeys struct{}

func (placeKeys) Resolve(_ context.Context, r api.ResolveRequest) (api.Secret, error) {
	key := []byte(testKey)
	if r.Placeholder == placeToken {
		key = []byte(placeKey)
	}
	return func() []byte { return key }, nil
}

// seen is what came at the upstream.
type seen struct {
	method, target, cookie, coding, body string
	length                               int64
}

// sights collects what came at the upstream, and echoes the target and the body.
type sights struct {
	mu  sync.Mutex
	all []seen
}

func (s *sights) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.all = append(s.all, seen{r.Method, r.RequestURI, r.Header.Get("Cookie"), r.Header.Get("Content-Encoding"), string(body), r.ContentLength})
	s.mu.Unlock()
	fmt.Fprintf(w, "%s\n%s", r.RequestURI, body)
}

func (s *sights) last(t testing.TB) seen {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) == 0 {
		t.Fatal("nothing came at the upstream")
	}
	return s.all[len(s.all)-1]
}

func (s *sights) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// placeRigs runs f over HTTP/1.1 and over HTTP/2.
func placeRigs(t *testing.T, f func(t *testing.T, c *http.Client, up *sights, events func() []audit.Event)) {
	t.Run("http1", func(t *testing.T) {
		rig, up := newH1Rig(t), &sights{}
		rig.server.swap = placeSwapper(t)
		rig.handle(up.serve)
		f(t, rig.client(), up, rig.records.all)
	})
	t.Run("http2", func(t *testing.T) {
		rig, up := newH2Rig(t), &sights{}
		rig.server.swap = placeSwapper(t)
		rig.handle(up.serve)
		f(t, rig.client(), up, func() []audit.Event {
			rig.records.await(t, func(e audit.Event) bool { return e.Kind == audit.Request })
			rig.records.mu.Lock()
			defer rig.records.mu.Unlock()
			return append([]audit.Event(nil), rig.records.events...)
		})
	})
}

func gzipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	w.Close()
	return b.String()
}

func TestPlaces(t *testing.T) {
	const (
		urlForm  = "application/x-www-form-urlencoded"
		jsonText = "application/json"
	)
	big := strings.Repeat("x", 900<<10)
	huge := strings.Repeat("y", 3<<20)
	token, key := url.PathEscape(placeKey), url.QueryEscape(testKey)
	for _, tt := range []struct {
		does, target, media, coding, body string
		want                              seen
	}{
		{does: "swaps the query", target: "/v1?a=b&key=" + testPlaceholder, want: seen{target: "/v1?a=b&key=" + key}},
		{does: "swaps two secrets of a query", target: "/v1?sig=" + placeToken + "&key=" + testPlaceholder,
			want: seen{target: "/v1?sig=123%3AREAL%2Ftoken%2Bof%20the%20second&key=" + key}},
		{does: "swaps the path", target: "/bot" + placeToken + "/getMe", want: seen{target: "/bot123:REAL%2Ftoken+of%20the%20second/getMe"}},
		{does: "swaps an encoded path", target: "/bot%73" + placeToken[1:] + "/getMe", want: seen{target: "/bot123:REAL%2Ftoken+of%20the%20second/getMe"}},
		{does: "leaves what is not bound", target: "/v1/" + testPlaceholder + "?q=" + testPlaceholder, want: seen{target: "/v1/" + testPlaceholder + "?q=" + testPlaceholder}},
		{does: "swaps a form", target: "/t", media: urlForm, body: "a=b&client_secret=" + testPlaceholder, want: seen{target: "/t", body: "a=b&client_secret=" + key}},
		{does: "swaps a path and a member", target: "/" + placeToken, media: jsonText, body: `{"client_secret":"` + testPlaceholder + `","auth":{"token":"` + placeToken + `"}}`,
			want: seen{target: "/123:REAL%2Ftoken+of%20the%20second", body: `{"client_secret":"` + testKey + `","auth":{"token":"` + placeKey + `"}}`}},
		{does: "leaves a prompt", target: "/t", media: jsonText, body: `{"prompt":"` + testPlaceholder + `"}`, want: seen{target: "/t", body: `{"prompt":"` + testPlaceholder + `"}`}},
		{does: "swaps a compressed form", target: "/t", media: urlForm, coding: "gzip", body: gzipped("client_secret=" + testPlaceholder),
			want: seen{target: "/t", body: "client_secret=" + key}},
		{does: "leaves a compressed form without one as it is", target: "/t", media: urlForm, coding: "gzip", body: gzipped("a=b"),
			want: seen{target: "/t", body: gzipped("a=b"), coding: "gzip"}},
		{does: "swaps in a long content", target: "/t", media: jsonText, body: `{"x":"` + big + `","client_secret":"` + testPlaceholder + `"}`,
			want: seen{target: "/t", body: `{"x":"` + big + `","client_secret":"` + testKey + `"}`}},
		{does: "relays one that is too long", target: "/t", media: jsonText, body: `{"x":"` + huge + `","client_secret":"` + testPlaceholder + `"}`,
			want: seen{target: "/t", body: `{"x":"` + huge + `","client_secret":"` + testPlaceholder + `"}`}},
		{does: "holds an empty content", target: "/t", media: jsonText, body: "", want: seen{target: "/t"}},
	} {
		for _, sized := range []bool{true, false} {
			t.Run(fmt.Sprintf("it %s, sized %v", tt.does, sized), func(t *testing.T) {
				placeRigs(t, func(t *testing.T, c *http.Client, up *sights, events func() []audit.Event) {
					req := newRequest(t, "GET", "/", nil)
					if tt.media != "" {
						req = newRequest(t, "POST", "/", io.MultiReader(strings.NewReader(tt.body)))
						req.Header.Set("Content-Type", tt.media)
						if sized {
							req.ContentLength = int64(len(tt.body))
						}
					}
					if tt.coding != "" {
						req.Header.Set("Content-Encoding", tt.coding)
					}
					req.URL.Opaque = "//" + testHost + tt.target
					res, err := c.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					defer res.Body.Close()
					answer, err := io.ReadAll(res.Body)
					if err != nil || res.StatusCode != 200 {
						t.Fatalf("got %d %s, %v", res.StatusCode, answer, err)
					}
					got := up.last(t)
					got.target = strings.TrimPrefix(got.target, "https://"+testHost)
					if got.target != tt.want.target || got.body != tt.want.body || got.coding != tt.want.coding {
						t.Errorf("got %.300q %.300q %q\nwant %.300q %.300q %q", got.target, got.body, got.coding, tt.want.target, tt.want.body, tt.want.coding)
					}
					if tt.media != "" && sized && got.length != int64(len(tt.want.body)) {
						t.Errorf("got Content-Length %d; want %d", got.length, len(tt.want.body))
					}
					for _, hidden := range []string{testKey, placeKey, token, "123%3AREAL%2Ftoken"} {
						if bytes.Contains(answer, []byte(hidden)) {
							t.Errorf("the echo holds %q", hidden)
						}
					}
					for _, e := range events() {
						if strings.Contains(e.Path, "Zq81Lw0p") || strings.Contains(e.Path, "REAL") || strings.Contains(e.Path, "?") {
							t.Errorf("the audit log has %q", e.Path)
						}
					}
				})
			})
		}
	}
}

func TestPlacesRefuse(t *testing.T) {
	placeRigs(t, func(t *testing.T, c *http.Client, up *sights, _ func() []audit.Event) {
		for _, tt := range []struct{ target, body, reason string }{
			{"/?key=mine", "", swap.ReasonForeign},
			{"/?key=" + placeToken, "", swap.ReasonPlace},
			{"/?key=" + testPlaceholder[:len(testPlaceholder)-1], "", swap.ReasonForeign},
			{"/", `{"client_secret":"mine"}`, swap.ReasonForeign},
			{"/", `{"client_secret":"` + testPlaceholder + `","auth":{"token":"mine"}}`, swap.ReasonForeign},
		} {
			req := newRequest(t, "POST", tt.target, strings.NewReader(tt.body))
			req.Header.Set("Content-Type", "application/json")
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if got := res.Header.Get("X-Superserve-Error"); got != tt.reason {
				t.Errorf("%s %s: got %d %q; want %s", tt.target, tt.body, res.StatusCode, got, tt.reason)
			}
		}
		if up.count() != 0 {
			t.Errorf("%d requests came at the upstream", up.count())
		}
		// The connection goes on.
		res, err := c.Do(newRequest(t, "GET", "/", nil))
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("after refusals: %v", err)
		}
		res.Body.Close()
	})
}

func TestExpectOfAHeldContent(t *testing.T) {
	rig, up := newH1Rig(t), &sights{}
	rig.server.swap = placeSwapper(t)
	rig.handle(up.serve)
	c := rig.dial()
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: "+testHost+"\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	buf := make([]byte, 64)
	if n, err := c.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 100 Continue\r\n\r\n") {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	io.WriteString(c, "{}")
	if n, err := c.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 200") {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
}

// TestHeldRequestsDoNotStopOthers opens a request that is held, then others, and
// finishes the held one last: its id upstream is then another than the client's.
func TestHeldRequestsDoNotStopOthers(t *testing.T) {
	rig, up := newH2Rig(t), &sights{}
	rig.server.swap = placeSwapper(t)
	rig.handle(up.serve)
	c := rig.client()
	var wg sync.WaitGroup
	var gates []*io.PipeWriter
	for i := range 3 {
		r, w := io.Pipe()
		gates = append(gates, w)
		wg.Go(func() {
			req := newRequest(t, "POST", fmt.Sprint("/held", i), r)
			req.Header.Set("Content-Type", "application/json")
			res, err := c.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil || !strings.HasPrefix(string(body), fmt.Sprint("/held", i)) {
				t.Errorf("got %.100q, %v", body, err)
			}
		})
		io.WriteString(w, `{"client_secret":"`)
	}
	large := strings.Repeat("z", 300<<10)
	for i := range 5 {
		res, body := rig.fetch(c, newRequest(t, "POST", fmt.Sprint("/now", i), strings.NewReader(large)))
		if res.StatusCode != 200 || !strings.HasPrefix(string(body), fmt.Sprint("/now", i)) || len(body) < len(large) {
			t.Fatalf("got %d %.100q", res.StatusCode, body)
		}
	}
	for i := 2; i >= 0; i-- {
		io.WriteString(gates[i], testPlaceholder+`","x":"`+large+`"}`)
		gates[i].Close()
	}
	wg.Wait()
	swapped := 0
	for _, s := range up.all {
		if strings.Contains(s.body, testKey) {
			swapped++
		}
	}
	if swapped != 3 {
		t.Errorf("%d of 3 held requests came with the key", swapped)
	}
}

func TestHeldRequestsAreCancelled(t *testing.T) {
	rig, up := newH2Rig(t), &sights{}
	rig.server.swap = placeSwapper(t)
	rig.handle(up.serve)
	c := rig.client()
	for range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			req := newRequest(t, "POST", "/held", r).WithContext(ctx)
			req.Header.Set("Content-Type", "application/json")
			_, err := c.Do(req)
			done <- err
		}()
		io.WriteString(w, "{")
		cancel()
		if err := <-done; err == nil {
			t.Fatal("a cancelled request was answered")
		}
		w.Close()
	}
	if res, _ := rig.fetch(c, newRequest(t, "GET", "/after", nil)); res.StatusCode != 200 {
		t.Fatalf("got %d", res.StatusCode)
	}
	if up.count() != 1 {
		t.Errorf("%d requests came at the upstream; want 1", up.count())
	}
}
