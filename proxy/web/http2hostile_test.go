package web

import (
	"net/http"
	"testing"

	"golang.org/x/net/http2"
)

// attack is what a hostile client does on a connection, and the code of the
// GOAWAY that it must get.
type attack struct {
	name  string
	write func(p *rawPeer)
	code  http2.ErrCode
}

// illegalFrames are attacks of few frames.
func illegalFrames() []attack {
	return []attack{
		{"an even stream id", func(p *rawPeer) { p.headers(2, true, rawRequest()...) }, http2.ErrCodeProtocol},
		{"a stream id that went down", func(p *rawPeer) {
			p.headers(5, true, rawRequest()...)
			p.outcome(5)
			p.headers(3, true, rawRequest()...)
		}, http2.ErrCodeStreamClosed},
		{"HEADERS after END_STREAM", func(p *rawPeer) {
			p.headers(1, true, rawRequest()...)
			p.headers(1, true, rawRequest()...)
		}, http2.ErrCodeStreamClosed},
		{"DATA on an idle stream", func(p *rawPeer) { p.fr.WriteData(7, true, []byte("x")) }, http2.ErrCodeProtocol},
		{"DATA on stream 0", func(p *rawPeer) { p.fr.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) }, http2.ErrCodeProtocol},
		{"RST_STREAM on an idle stream", func(p *rawPeer) { p.fr.WriteRSTStream(7, http2.ErrCodeCancel) }, http2.ErrCodeProtocol},
		{"a window beyond 2^31-1", func(p *rawPeer) { p.fr.WriteWindowUpdate(0, 1<<31-1) }, http2.ErrCodeFlowControl},
		{"an empty increment", func(p *rawPeer) { p.fr.WriteWindowUpdate(0, 0) }, http2.ErrCodeProtocol},
		{"an initial window beyond 2^31-1", func(p *rawPeer) {
			p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		}, http2.ErrCodeFlowControl},
		{"a push", func(p *rawPeer) {
			p.fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: p.block(rawRequest()...), EndHeaders: true})
		}, http2.ErrCodeProtocol},
		{"a frame beyond 16 KiB", func(p *rawPeer) { p.fr.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 16385)) }, http2.ErrCodeFrameSize},
		{"CONTINUATION out of place", func(p *rawPeer) { p.fr.WriteContinuation(1, true, nil) }, http2.ErrCodeProtocol},
		{"a frame inside a header block", func(p *rawPeer) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(rawRequest()...)})
			p.fr.WritePing(false, [8]byte{})
		}, http2.ErrCodeProtocol},
		{"a header block that does not decode", func(p *rawPeer) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0x7f}, EndHeaders: true})
		}, http2.ErrCodeCompression},
	}
}

// floods are attacks of legal frames, too many of them.
func floods() []attack {
	return []attack{
		{"a CONTINUATION flood", func(p *rawPeer) {
			p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(rawRequest()...)})
			flood(func(p *rawPeer, i int) error { return p.fr.WriteContinuation(1, false, nil) })(p)
		}, http2.ErrCodeEnhanceYourCalm},
		{"a PING flood", flood(func(p *rawPeer, i int) error { return p.fr.WritePing(false, [8]byte{}) }), http2.ErrCodeEnhanceYourCalm},
		{"a SETTINGS flood", flood(func(p *rawPeer, i int) error { return p.fr.WriteSettings() }), http2.ErrCodeEnhanceYourCalm},
		{"a PRIORITY flood", flood(func(p *rawPeer, i int) error {
			return p.fr.WritePriority(1, http2.PriorityParam{StreamDep: 3})
		}), http2.ErrCodeEnhanceYourCalm},
		{"a flood of unknown frames", flood(func(p *rawPeer, i int) error { return p.fr.WriteRawFrame(0x5f, 0, 0, nil) }), http2.ErrCodeEnhanceYourCalm},
		{"a flood of empty DATA", func(p *rawPeer) {
			p.headers(1, false, ":method", "POST", ":scheme", "https", ":authority", testHost, ":path", "/")
			flood(func(p *rawPeer, i int) error { return p.fr.WriteData(1, false, nil) })(p)
		}, http2.ErrCodeEnhanceYourCalm},
		{"rapid reset", flood(func(p *rawPeer, i int) error {
			id := uint32(2*i + 1)
			p.headers(id, true, rawRequest()...)
			return p.fr.WriteRSTStream(id, http2.ErrCodeCancel)
		}), http2.ErrCodeEnhanceYourCalm},
		{"made you reset", flood(func(p *rawPeer, i int) error {
			id := uint32(2*i + 1)
			p.headers(id, false, ":method", "POST", ":scheme", "https", ":authority", testHost, ":path", "/")
			return p.fr.WriteWindowUpdate(id, 0)
		}), http2.ErrCodeEnhanceYourCalm},
	}
}

// flood writes frames until the connection is closed.
func flood(write func(p *rawPeer, i int) error) func(*rawPeer) {
	return func(p *rawPeer) {
		p.busy = true
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for i := 0; i < 200_000 && write(p, i) == nil; i++ {
			}
		}()
		p.t.Cleanup(func() {
			p.conn.Close()
			<-ended
		})
	}
}

func TestHTTP2EndsHostileConnections(t *testing.T) {
	rig := newH2Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			<-r.Context().Done()
		}
	})
	for _, test := range append(illegalFrames(), floods()...) {
		t.Run("it ends a connection with "+test.name, func(t *testing.T) {
			p := rig.rawClient()
			test.write(p)
			for {
				o := p.outcome(0)
				if o.goAway != 0 || o.closed {
					// The answer to a flood may be lost: who goes on sending is reset.
					if o.goAway != test.code && !(p.busy && o.closed) {
						t.Errorf("got %+v, want GOAWAY %v", o, test.code)
					}
					return
				}
			}
		})
	}
}
