package abuse

import (
	"encoding/binary"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"
)

// packedMessage says that a message of n bytes follows, and that it is compressed.
func packedMessage(n int) []byte { return binary.BigEndian.AppendUint32([]byte{1}, uint32(n)) }

// packedAnswer begins an answer of gRPC whose messages are compressed.
func packedAnswer(w http.ResponseWriter, coding string) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Grpc-Encoding", coding)
}

// TestMessageBombs: 25 answers at once, each with a message of 256 MiB in few KiB. None of it reaches the agent.
func TestMessageBombs(t *testing.T) {
	bombs()
	v := start(t, newUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		coding := r.URL.Path[1:]
		packedAnswer(w, coding)
		w.Write(packedMessage(len(bombs()[coding])))
		w.Write(bombs()[coding])
	}))
	for _, coding := range []string{"gzip", "deflate", "br", "zstd"} {
		t.Run(coding, func(t *testing.T) {
			v := v.in1(t)
			p := v.attack(maxWindow...)
			p.fr.WriteWindowUpdate(0, 1<<30)
			v.measure(func() {
				for i := range uint32(25) {
					p.headers(2*i+1, true, keyed("/"+coding)...)
				}
				p.ends(25)
			}).within(t, cost{Peak: 192 * MiB, CPU: 10 * time.Second})
			client := v.client("h2")
			if _, n, _ := v.get(client, "/"+coding); n > 0 {
				t.Errorf("the agent got %d bytes", n)
			}
		})
	}
}

// TestHeldMessages: 40 answers at once with the longest message that is taken, of which the last byte does not come. Those
// for which there is no room are given up.
func TestHeldMessages(t *testing.T) {
	const most = 16 * MiB
	noise := make([]byte, most-1)
	rand.NewChaCha8([32]byte{}).Read(noise)
	release := make(chan struct{})
	v := start(t, newUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		packedAnswer(w, "gzip")
		w.Write(packedMessage(most))
		w.(http.Flusher).Flush()
		w.Write(noise)
		w.(http.Flusher).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	p := v.attack(maxWindow...)
	p.fr.WriteWindowUpdate(0, 1<<30)
	v.measure(func() {
		for i := range uint32(40) {
			p.headers(2*i+1, true, keyed("/")...)
		}
		p.ends(40 - 64/16)
		v.quiet()
	}).within(t, cost{Peak: 192 * MiB})
	close(release)
}

// ends waits until so many answers have ended in trailers.
func (p *peer) ends(n int) {
	p.t.Helper()
	p.w.Flush()
	for {
		p.mu.Lock()
		ended := p.ended
		p.mu.Unlock()
		if ended >= n {
			return
		}
		select {
		case <-p.more:
		case <-p.gone:
			p.t.Fatalf("%d answers have ended, want %d", ended, n)
		}
	}
}
