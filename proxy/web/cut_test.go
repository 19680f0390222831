package web

import (
	"net/http"
	"testing"
)

// TestCutWhileAKeyIsAskedFor deletes a secret with --now between the answer of the keeper
// and the sending of the request: the key does not leave.
func TestCutWhileAKeyIsAskedFor(t *testing.T) {
	t.Run("http1", func(t *testing.T) {
		rig := newH1Rig(t)
		rig.handle(func(http.ResponseWriter, *http.Request) { t.Error("the request reached the upstream") })
		rig.keys.during = func() { rig.server.Cut("TEST_API_KEY") }
		req, err := http.NewRequest("GET", "https://"+testHost+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := rig.client().Do(keyed(req))
		if err != nil {
			return // the cut found the session
		}
		defer res.Body.Close()
		if res.StatusCode != 503 || res.Header.Get("X-Superserve-Error") != "credential_revoked" {
			t.Errorf("got %d %s", res.StatusCode, res.Header.Get("X-Superserve-Error"))
		}
	})
	t.Run("http2", func(t *testing.T) {
		rig := newH2Rig(t)
		rig.handle(func(http.ResponseWriter, *http.Request) { t.Error("the request reached the upstream") })
		rig.keys.during = func() { rig.server.Cut("TEST_API_KEY") }
		res, _ := rig.fetch(rig.client(), keyed(newRequest(t, "GET", "/", nil)))
		if res.StatusCode != 503 || res.Header.Get("X-Superserve-Error") != "credential_revoked" {
			t.Errorf("got %d %s", res.StatusCode, res.Header.Get("X-Superserve-Error"))
		}
	})
}
