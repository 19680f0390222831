package web

import (
	"context"
	"io"
	"net/http"
	"testing"

	"golang.org/x/net/http2"
)

// BenchmarkHTTP2 is whole requests with real connections and the client's and the
// server's work in it.
func BenchmarkHTTP2(b *testing.B) {
	for _, bench := range []struct {
		name  string
		keyed bool
	}{{"without a key", false}, {"with a key", true}} {
		b.Run(bench.name, func(b *testing.B) {
			rig := newH2Rig(b)
			rig.records.more = nil
			rig.handle(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"hello":"world"}`) })
			c := rig.client()
			req := newRequest(b, "GET", "/v1/messages", nil)
			if bench.keyed {
				keyed(req)
			}
			b.ReportAllocs()
			for b.Loop() {
				rig.fetch(c, req)
			}
		})
	}
}

// BenchmarkHTTP2Relay is the relay's own work for one small request and its
// answer: four frames in, four out, no connection.
func BenchmarkHTTP2Relay(b *testing.B) {
	for _, bench := range []struct {
		name  string
		extra []string
	}{{"without a key", nil}, {"with a key", []string{"authorization", "Bearer " + testPlaceholder}}} {
		b.Run(bench.name, func(b *testing.B) {
			ses := fuzzSession(newMemoryConn(nil), newMemoryConn(nil))
			r := newRelay(ses.client, ses.upstream, &sessionJudge{s: ses})
			r.authority = testHost
			r.client.told, r.upstream.told = true, true
			request := fuzzFrames(func(p *rawPeer) {
				p.headers(1, true, rawRequest(append(bench.extra, "user-agent", "agent/1.0", "accept", "application/json")...)...)
			})
			answer := fuzzFrames(func(p *rawPeer) {
				p.headers(1, true, ":status", "200", "content-type", "application/json", "date", "Mon, 23 Nov 2026 16:00:00 GMT", "content-length", "17")
			})
			b.ReportAllocs()
			for id := uint32(1); b.Loop(); id += 2 {
				head := &http2.HeadersFrame{FrameHeader: http2.FrameHeader{StreamID: id, Flags: http2.FlagHeadersEndHeaders | http2.FlagHeadersEndStream}}
				benchBlock(b, r.client.block, head, request[frameHeaderBytes:])
				if err := r.clientHeaders(context.Background()); err != nil {
					b.Fatal(err)
				}
				benchBlock(b, r.upstream.block, head, answer[frameHeaderBytes:])
				if err := r.upstreamHeaders(); err != nil {
					b.Fatal(err)
				}
				r.client.drop()
				r.upstream.drop()
				r.events = r.events[:0]
			}
		})
	}
}

// benchBlock decodes a block as begin does; its frame cannot be made by hand.
func benchBlock(b *testing.B, block *headerBlock, f *http2.HeadersFrame, fragment []byte) {
	clear(block.fields)
	*block = headerBlock{dec: block.dec, fields: block.fields[:0], stream: f.StreamID, endStream: f.Flags.Has(http2.FlagHeadersEndStream)}
	block.dec.SetEmitEnabled(true)
	if _, err := block.append(fragment, true); err != nil {
		b.Fatal(err)
	}
}
