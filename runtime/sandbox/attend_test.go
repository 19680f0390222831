package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/superserve/superserve/secretd/api"
)

// attending joins the attendants with an answer function, and returns a function that leaves.
func attending(t *testing.T, a *attendants, answer func(context.Context, string) string) (leave func()) {
	t.Helper()
	ours, theirs := net.Pipe()
	served, followed := make(chan struct{}), make(chan struct{})
	go func() { defer close(served); a.attend(theirs, theirs) }()
	go func() { defer close(followed); follow(t.Context(), ours, answer) }()
	for deadline := time.Now().Add(time.Minute); ; {
		a.mu.Lock()
		there := a.all[theirs]
		a.mu.Unlock()
		if there {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody joined")
		}
	}
	return func() {
		ours.Close()
		<-served
		<-followed
	}
}

func TestAttendants(t *testing.T) {
	defer goleak.VerifyNone(t)
	var a attendants
	if word, ok := a.ask(t.Context(), "nobody?"); ok || word != "" {
		t.Errorf("nobody said %q, %v", word, ok)
	}
	var prompts []string
	leaveFirst := attending(t, &a, func(_ context.Context, prompt string) string {
		prompts = append(prompts, prompt)
		return "once"
	})
	gaveUp := make(chan struct{}, 8)
	leaveSecond := attending(t, &a, func(ctx context.Context, _ string) string {
		<-ctx.Done()
		gaveUp <- struct{}{}
		return "too late"
	})
	for i := range 3 {
		prompt := fmt.Sprintf("question %d? ", i)
		if word, ok := a.ask(t.Context(), prompt); !ok || word != "once" {
			t.Errorf("%q: %q, %v", prompt, word, ok)
		}
		<-gaveUp
	}
	leaveFirst()
	if got := strings.Join(prompts, ""); got != "question 0? question 1? question 2? " {
		t.Errorf("asked %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if word, ok := a.ask(ctx, "in time?"); !ok || word != "" {
		t.Errorf("without an answer: %q, %v", word, ok)
	}
	<-gaveUp
	time.AfterFunc(0, leaveSecond)
	if word, ok := a.ask(t.Context(), "still there?"); ok || word != "" {
		t.Errorf("after all left: %q, %v", word, ok)
	}
}

// FuzzAttend gives a supervisor and one who attends whatever bytes the other might send.
func FuzzAttend(f *testing.F) {
	line, _ := json.Marshal(asked{Number: 1, Prompt: "p?"})
	f.Add(line)
	f.Add([]byte("{\"number\":1,\"word\":\"always\"}\n\n{\"number\":1,\"word\":\"no\"}\n"))
	f.Add([]byte("{\"number\":1,\"over\":true}\n{\"number\":"))
	f.Fuzz(func(t *testing.T, said []byte) {
		a := attendants{number: 1, busy: true, word: make(chan string, 1)}
		word := a.word
		c, other := net.Pipe()
		other.Close()
		a.attend(c, bytes.NewReader(said))
		if got := <-word; len(got) > maxAsked || len(a.all) != 0 {
			t.Errorf("%d bytes, %d attend", len(got), len(a.all))
		}
		prompts := 0
		follow(t.Context(), struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(said), io.Discard}, func(context.Context, string) string { prompts++; return "once" })
		if prompts > bytes.Count(said, []byte("\n"))+1 {
			t.Errorf("%q asks %d times", said, prompts)
		}
	})
}

// TestQuestionFits: an agent chooses the names that its user reads.
func TestQuestionFits(t *testing.T) {
	for _, tt := range []struct {
		q    Question
		want bool
	}{
		{Question{"", "api.example.com", 443}, true},
		{Question{"", "xn--bcher-kva.example.com", 8443}, true},
		{Question{"", "example.com", 0}, false},
		{Question{"", "example", 443}, false},
		{Question{"", "Example.com", 443}, false},
		{Question{"", "example.com.", 443}, false},
		{Question{"", "a_b.example.com", 443}, false},
		{Question{"", "10.0.0.1", 443}, false},
		{Question{"", "metadata.google.internal", 80}, false},
		{Question{"", "printer.local", 80}, false},
		{Question{"", "api.localhost", 80}, false},
		{Question{"", "1.0.0.10.in-addr.arpa", 80}, false},
		{Question{"", "a.example.com? (once/always/no) once", 443}, false},
		{Question{"", "a.example.com\x1b[2K", 443}, false},
		{Question{"", api.Host("registry.npmjs.org." + strings.Repeat("a", 60) + ".evil.com"), 443}, false},
		{Question{"TOKEN", "vault", 8200}, true},
		{Question{"TOKEN", "vault.internal", 8200}, true},
		{Question{"TO KEN", "api.example.com", 443}, false},
		{Question{"TOKEN", "api.example.com\r", 443}, false},
	} {
		if got := tt.q.Fits(); got != tt.want {
			t.Errorf("%q fits: %v, want %v", tt.q.Target(), got, tt.want)
		}
	}
}

// FuzzQuestionFits: what fits is a line of printable ASCII without a space, whatever the proxy says.
func FuzzQuestionFits(f *testing.F) {
	f.Add("", "api.example.com", uint16(443))
	f.Add("TOKEN", "a\u202eb.com", uint16(1))
	f.Fuzz(func(t *testing.T, secret, host string, port uint16) {
		q := Question{secret, api.Host(host), port}
		if !q.Fits() {
			return
		}
		for _, c := range []byte(q.Secret + q.Target()) {
			if c <= ' ' || c >= 0x7f || strings.IndexByte("?()/\\'\"", c) >= 0 {
				t.Fatalf("%q of %q is asked", q.Target(), q.Secret)
			}
		}
		if err := q.Binding().Check(); err != nil {
			t.Errorf("%q: %v", q.Target(), err)
		}
	})
}
