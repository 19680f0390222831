package web

import (
	"io"
	"net/http"
	"testing"
)

// TestHTTP2EndLeavesOthersRedacted has two connections that carried the same key. What
// finds the key is shared by the run's connections, so the end of one must not take it
// from an answer that is still under way on the other.
func TestHTTP2EndLeavesOthersRedacted(t *testing.T) {
	rig := newH2Rig(t)
	ended := make(chan struct{})
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/long" {
			return
		}
		w.(http.Flusher).Flush()
		<-ended
		io.WriteString(w, r.Header.Get("Authorization"))
	})
	long, err := rig.client().Do(keyed(newRequest(t, "GET", "/long", nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer long.Body.Close()
	short := rig.client()
	rig.fetch(short, keyed(newRequest(t, "GET", "/short", nil)))
	short.CloseIdleConnections()
	if err := <-rig.events; err != nil {
		t.Errorf("the short connection ended with %v", err)
	}
	close(ended)
	body, err := io.ReadAll(long.Body)
	if err != nil {
		t.Fatal(err)
	}
	if want := "Bearer " + testPlaceholder; string(body) != want {
		t.Errorf("got %q, want %q", body, want)
	}
	mustNotHold(t, "the answer under way", body)
}
