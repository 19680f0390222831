package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHandoff(t *testing.T) {
	for _, network := range []Network{{}, {Allow: []string{}}, {Mode: "bound", Allow: []string{"x.com"}, Deny: []string{"y.com"}}} {
		h := &Handoff{Run: "r", Agent: "a", FDs: HandoffFDs{TCP4: 4, Ready: 9}, Network: network, UpstreamCA: []byte("pem"), Resume: "00"}
		f, err := h.file()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got, err := readHandoff(f)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(h, got); diff != "" { // an empty Allow that came back nil would open the internet
			t.Errorf("-want +got:\n%s", diff)
		}
		if _, err := f.WriteAt([]byte("x"), 0); err == nil {
			t.Error("a sealed handoff was written to")
		}
	}
}

func TestHandoffRefused(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"unsealed": `{"run":"r"}`, "empty": ""} {
		t.Run("it refuses one that is "+name, func(t *testing.T) {
			f, err := os.CreateTemp(dir, "handoff")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			f.WriteString(text)
			if h, err := readHandoff(f); err == nil {
				t.Errorf("got %+v", h)
			}
		})
	}
	if _, err := (&Handoff{UpstreamCA: make([]byte, maxHandoffBytes)}).file(); err == nil {
		t.Error("a handoff larger than the limit was written")
	}
}

func TestReady(t *testing.T) {
	var buf bytes.Buffer
	if err := WriteReady(&buf, []byte("der")); err != nil {
		t.Fatal(err)
	}
	want := Notice{Kind: "refused", Text: "a\nline", Host: "x.com", Port: 443}
	if err := WriteNotice(&buf, want); err != nil {
		t.Fatal(err)
	}
	r := newReadyReader(&buf)
	if der, err := r.ca(); err != nil || string(der) != "der" {
		t.Fatalf("got %q, %v", der, err)
	}
	if got, err := r.notice(); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := r.notice(); !errors.Is(err, io.EOF) {
		t.Errorf("got %v at the end", err)
	}
	for _, text := range []string{"ca \n", "ca !\n", "hello\n", strings.Repeat("x", maxReadyBytes+1)} {
		if der, err := newReadyReader(strings.NewReader(text)).ca(); err == nil {
			t.Errorf("%.20q: got %q", text, der)
		}
	}
}

// FuzzReady feeds the supervisor what a proxy that was taken over could send.
func FuzzReady(f *testing.F) {
	f.Add([]byte("ca AAAA\n{\"kind\":\"x\",\"text\":\"y\"}\n"))
	f.Add([]byte("ca \n"))
	f.Add([]byte("{}\n[]\nnull\n"))
	f.Add(bytes.Repeat([]byte("x"), maxReadyBytes+2))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newReadyReader(bytes.NewReader(data))
		if der, err := r.ca(); err == nil && len(der) == 0 {
			t.Error("an empty certificate was taken")
		}
		for range len(data) + 1 {
			if _, err := r.notice(); err != nil {
				return
			}
		}
		t.Error("more notices than bytes")
	})
}

// FuzzHandoff reads what another build of the supervisor could write.
func FuzzHandoff(f *testing.F) {
	good, _ := json.Marshal(Handoff{Run: "r", Network: Network{Allow: []string{}}})
	f.Add(good)
	f.Add([]byte(`{"network":{"allow":null}}`))
	f.Add([]byte(`{"unknown":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h := new(Handoff)
		if json.Unmarshal(data, h) != nil {
			return
		}
		file, err := h.file()
		if err != nil {
			return
		}
		defer file.Close()
		again, err := readHandoff(file)
		if err != nil {
			t.Fatal(err)
		}
		if (h.Network.Allow == nil) != (again.Network.Allow == nil) {
			t.Errorf("the list of allowed names changed from %#v to %#v", h.Network.Allow, again.Network.Allow)
		}
	})
}
