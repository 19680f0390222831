package web

import (
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// TestPingsForWhatADecoderMade has a client that measures its bandwidth as gRPC's do, with a ping for what it gets and the
// next one after its answer. The upstream, which has sent one frame, gets one ping: grpc-go's servers take more for an attack.
// One that has nothing to do with the answer is relayed.
func TestPingsForWhatADecoderMade(t *testing.T) {
	rig := newH2Rig(t)
	const window, turns = 16 << 10, 6
	pings := make(chan [8]byte, 100)
	rig.rawUpstream(func(p *rawPeer) {
		id := p.next()
		p.headers(id, false, ":status", "200", "content-type", "application/grpc", "grpc-encoding", "gzip")
		p.fr.WriteData(id, false, []byte(grpcMessage(1, gzipped(strings.Repeat("hello, ", window)))))
		for {
			f, err := p.fr.ReadFrame()
			if err != nil {
				return
			}
			if f, ok := f.(*http2.PingFrame); ok {
				pings <- f.Data
				p.fr.WritePing(true, f.Data)
			}
		}
	})
	p := rig.rawClient()
	p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	p.headers(1, true, rawRequest("authorization", "Bearer "+testPlaceholder)...)
	for turn := range turns {
		p.awaitFrame(func(f http2.Frame) bool { return f.Header().Type == http2.FrameData })
		p.pingPong(byte(turn))
		p.fr.WriteWindowUpdate(0, window)
		p.fr.WriteWindowUpdate(1, window)
	}
	p.awaitFrame(func(f http2.Frame) bool { return f.Header().Type == http2.FrameData })
	p.pingPong(100)
	if len(pings) != 1 {
		t.Errorf("the upstream got %d pings, want one", len(pings))
	}
	for c := byte(101); len(pings) < 2; c++ { // a last DATA may be under way
		if p.pingPong(c); c == 110 {
			t.Fatal("the upstream gets no ping any more")
		}
	}
}

// pingPong sends a ping and waits for its answer.
func (p *rawPeer) pingPong(c byte) {
	p.t.Helper()
	p.fr.WritePing(false, [8]byte{c})
	p.awaitFrame(func(f http2.Frame) bool {
		pong, ok := f.(*http2.PingFrame)
		return ok && pong.IsAck() && pong.Data == [8]byte{c}
	})
}

// awaitFrame reads frames up to one that is wanted.
func (p *rawPeer) awaitFrame(wanted func(http2.Frame) bool) {
	p.t.Helper()
	for {
		f, err := p.fr.ReadFrame()
		if err != nil {
			p.t.Fatal(err)
		}
		if f, ok := f.(*http2.SettingsFrame); ok && !f.IsAck() {
			p.fr.WriteSettingsAck()
		}
		if wanted(f) {
			return
		}
	}
}
