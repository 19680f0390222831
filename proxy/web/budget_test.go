package web

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/budget"
	"github.com/superserve/superserve/secretd/account"
	"github.com/superserve/superserve/secretd/api"
)

// ledger is the account of these tests.
type ledger struct {
	mu     sync.Mutex
	a      account.Account
	limits api.Limits
}

func (l *ledger) charge(_ context.Context, c api.Charge) (api.Verdict, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.Ask {
		return l.a.Ask("r", l.limits, time.Now()), nil
	}
	l.a.Add("r", c.Spend, time.Now())
	return api.Verdict{}, nil
}

func (l *ledger) tokens() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.a.Used(time.Now()).Tokens
}

// budgetOf is a guard over the rigs' key.
func budgetOf(l *ledger) *budget.Guard {
	return budget.New(budget.Config{
		Entries: []api.Entry{{Name: "TEST_API_KEY", Placeholder: testPlaceholder, Limits: l.limits}}, Charge: l.charge, Audit: audit.NewWriter(io.Discard),
	})
}

const (
	budgetJSON = `{"model":"gpt-5","usage":{"input_tokens":60,"output_tokens":40}}`
	budgetSSE  = "data: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\ndata: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-5\",\"usage\":{\"input_tokens\":60,\"output_tokens\":40}}}\n\n"
)

// TestBudget has each form of an answer cost 100 tokens, of which the limit leaves room for one answer and a bit.
func TestBudget(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"a document", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, budgetJSON) }},
		{"a compressed document", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, gzipped(budgetJSON))
		}},
		{"a stream", func(w http.ResponseWriter, _ *http.Request) {
			for part := range strings.SplitAfterSeq(budgetSSE, ",") {
				io.WriteString(w, part)
				w.(http.Flusher).Flush()
			}
		}},
		{"a compressed stream", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, gzipped(budgetSSE))
		}},
		{"a stream that ends in trailers", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-End")
			io.WriteString(w, budgetSSE)
			w.(http.Flusher).Flush()
			w.Header().Set("X-End", "1")
		}},
		{"an answer to an upload that goes on", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, budgetJSON)
			w.(http.Flusher).Flush()
			io.Copy(io.Discard, r.Body)
		}},
	} {
		t.Run("it counts "+tt.name, func(t *testing.T) {
			t.Run("http1", func(t *testing.T) {
				rig, l := newH1Rig(t), &ledger{limits: api.Limits{TokensPerRun: 101}}
				rig.server.budget = budgetOf(l)
				rig.handle(tt.answer)
				wantBudget(t, rig.client(), l)
			})
			t.Run("http2", func(t *testing.T) {
				rig, l := newH2Rig(t), &ledger{limits: api.Limits{TokensPerRun: 101}}
				rig.server.budget = budgetOf(l)
				rig.handle(tt.answer)
				wantBudget(t, rig.client(), l)
			})
		})
	}
}

func wantBudget(t *testing.T, c *http.Client, l *ledger) {
	t.Helper()
	for i, want := range []int{200, 200, 429} {
		req, err := http.NewRequest(http.MethodPost, "https://"+testHost+"/v1/responses?x=y", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+testPlaceholder)
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != want {
			t.Fatalf("request %d: %d, %v; want %d\n%s", i, res.StatusCode, err, want, body)
		}
		if want == 429 && (res.Header.Get("X-Superserve-Error") != budget.ReasonExceeded || !strings.Contains(string(body), "the limit of 101 tokens a run is reached")) {
			t.Errorf("%s\n%s", res.Header, body)
		}
	}
	if n := l.tokens(); n != 200 {
		t.Errorf("%d tokens, want 200", n)
	}
}

// TestBudgetOfAnAnswerThatIsLeft has a client take what it wants of a stream and go before the numbers come.
func TestBudgetOfAnAnswerThatIsLeft(t *testing.T) {
	rig, l := newH1Rig(t), &ledger{limits: api.Limits{TokensPerRun: 1 << 40}}
	guard := budgetOf(l)
	rig.server.budget = guard
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		for range 50 {
			io.WriteString(w, "data: {\"choices\":[{\"delta\":{\"content\":\"word\"}}]}\n\n")
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	req, err := http.NewRequest(http.MethodPost, "https://"+testHost+"/v1/chat/completions", strings.NewReader(strings.Repeat("x", 400)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testPlaceholder)
	res, err := rig.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, 50*40)); err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	for deadline := time.Now().Add(time.Minute); l.tokens() < 150; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d tokens, want 150 and the head's", l.tokens())
		}
	}
	guard.Close(t.Context())
}

// TestBudgetOfAnAnswerThatIsNotAwaited has a client go before the answer begins, which one that is no stream does when
// it is whole.
func TestBudgetOfAnAnswerThatIsNotAwaited(t *testing.T) {
	budgets := func(t *testing.T, server *Server, handle func(http.HandlerFunc), client *http.Client) {
		l := &ledger{limits: api.Limits{TokensPerRun: 1 << 40}}
		guard := budgetOf(l)
		server.budget = guard
		came := make(chan struct{}, 1)
		handle(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			came <- struct{}{}
			<-r.Context().Done()
		})
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			<-came
			leave()
		}()
		req := keyed(newRequest(t, http.MethodPost, "/v1/chat/completions", strings.NewReader(strings.Repeat("x", 400))))
		if res, err := client.Do(req.WithContext(ctx)); err == nil {
			t.Fatalf("an answer came: %d", res.StatusCode)
		}
		for deadline := time.Now().Add(time.Minute); l.tokens() < 100; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d tokens, want those of the request", l.tokens())
			}
		}
		guard.Close(t.Context())
	}
	t.Run("http1", func(t *testing.T) {
		rig := newH1Rig(t)
		budgets(t, rig.server, rig.handle, rig.client())
	})
	t.Run("http2", func(t *testing.T) {
		rig := newH2Rig(t)
		budgets(t, rig.server, rig.handle, rig.client())
	})
}

// TestBudgetOfAWebSocket has answers over one socket be counted, packed or not, and the socket end at the limit.
func TestBudgetOfAWebSocket(t *testing.T) {
	rig, l := newH1Rig(t), &ledger{limits: api.Limits{TokensPerRun: 150}}
	guard := budgetOf(l)
	rig.server.budget = guard
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			if _, _, err := c.Read(r.Context()); err != nil {
				return
			}
			answer := `{"type":"response.completed","response":{"model":"gpt-5","usage":{"input_tokens":60,"output_tokens":40}},"pad":"` + strings.Repeat("x", 1000) + `"}`
			if c.Write(r.Context(), websocket.MessageText, []byte(answer)) != nil {
				return
			}
		}
	})
	c, err := rig.dialWebSocket(t)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	answers := 0
	for ; answers < 10; answers++ {
		if c.Write(ctx, websocket.MessageText, []byte("ask")) != nil {
			break
		}
		if _, _, err := c.Read(ctx); err != nil {
			break
		}
		guard.Close(t.Context()) // what was counted is told by now
	}
	if answers != 2 {
		t.Errorf("%d answers came, want 2", answers)
	}
	c.CloseNow()
	guard.Close(t.Context())
	if n := l.tokens(); n < 200 || n > 310 {
		t.Errorf("%d tokens, want 200 and no more than one answer under way", n)
	}
}
