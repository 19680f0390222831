package web

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// A client that reads one answer slowly still gets the others.
func TestHTTP2OneStalledStream(t *testing.T) {
	rig := newH2Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, io.LimitReader(new(pattern), 16<<20))
	})
	c := rig.client()
	stalled, err := c.Do(keyed(newRequest(t, "GET", "/", nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Body.Close()
	for range 2 {
		if _, body := rig.fetch(c, newRequest(t, "GET", "/", nil)); len(body) != 16<<20 {
			t.Errorf("beside the stalled stream: got %d bytes", len(body))
		}
	}
	if n, err := io.Copy(io.Discard, stalled.Body); n != 16<<20 || err != nil {
		t.Errorf("the stalled stream: got %d bytes, %v", n, err)
	}
}

// A decoded body is longer than what the upstream sent, so the relay must mind the
// client's windows by itself.
func TestHTTP2DecodesWithinWindows(t *testing.T) {
	for _, window := range []uint32{1, 50, 1000} {
		t.Run(fmt.Sprintf("it obeys a window of %d bytes", window), func(t *testing.T) {
			rig := newH2Rig(t)
			rig.handle(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				io.WriteString(z, strings.Repeat(r.Header.Get("Authorization")+"\n", 40))
				z.Close()
			})
			p := rig.rawClient()
			p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
			p.headers(1, true, rawRequest("authorization", "Bearer "+testPlaceholder)...)
			got := p.readWithin(1, int(window))
			if want := strings.Repeat("Bearer "+testPlaceholder+"\n", 40); string(got) != want {
				t.Errorf("got %d bytes %.80q, want %d", len(got), got, len(want))
			}
		})
	}
}

// readWithin reads a body, opens the stream's window when it is used up, and fails
// for DATA beyond it.
func (p *rawPeer) readWithin(id uint32, window int) []byte {
	var body []byte
	for room := window; ; {
		f, err := p.fr.ReadFrame()
		if err != nil {
			p.t.Fatalf("after %d bytes: %v", len(body), err)
		}
		if r, ok := f.(*http2.RSTStreamFrame); ok {
			p.t.Fatalf("after %d bytes: RST_STREAM %v", len(body), r.ErrCode)
		}
		d, ok := f.(*http2.DataFrame)
		if !ok {
			continue
		}
		body = append(body, d.Data()...)
		if d.StreamEnded() {
			return body
		}
		if room -= len(d.Data()); room < 0 {
			p.t.Fatalf("%d bytes beyond the window", -room)
		}
		if room == 0 {
			p.fr.WriteWindowUpdate(id, uint32(window))
			room = window
		}
	}
}

func TestHTTP2AnswersWithoutAWindow(t *testing.T) {
	rig := newH2Rig(t)
	rig.handle(func(http.ResponseWriter, *http.Request) {})
	p := rig.rawClient()
	p.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	fields := rawRequest()
	fields[5] = "evil.example.com"
	p.headers(1, true, fields...)
	if o := p.outcome(1); o.status != "421" {
		t.Errorf("got %+v, want status 421", o)
	}
}

// No buffer keeps a key: not the one that was written, nor one that it outgrew.
func TestHTTP2WipesKeys(t *testing.T) {
	s := newSide(newMemoryConn(nil))
	r := &h2relay{client: s}
	r.changed.L = &r.mu
	s.out.buf = make([]byte, 0, 32)
	kept := [][]byte{s.out.buf[:32]}
	for i := range 20 {
		r.mu.Lock()
		at := s.out.begin(http2.FrameHeaders, 0, 1)
		s.out.secretField("authorization", i, func(dst []byte) []byte { return append(append(dst, "Bearer "...), testKey...) })
		kept = append(kept, s.out.buf[:cap(s.out.buf)])
		s.out.field("x", strings.Repeat("y", 100*i), false)
		s.out.endHeaders(at)
		kept = append(kept, s.out.buf[:cap(s.out.buf)])
		r.mu.Unlock()
		if i%3 == 0 {
			r.flush(s)
		}
	}
	r.flush(s)
	for i, buf := range kept {
		if bytes.Contains(buf, []byte(testKey[:16])) {
			t.Errorf("buffer %d still holds the key", i)
		}
	}
	if n := bytes.Count(s.conn.(*memoryConn).written.Bytes(), []byte(testKey)); n != 20 {
		t.Errorf("%d keys were written, want 20", n)
	}
}

// An upstream may answer, say that it wants no more, and close.
func TestHTTP2UpstreamAnswersAndCloses(t *testing.T) {
	rig := newH2Rig(t)
	rig.rawUpstream(func(p *rawPeer) {
		id := p.next()
		p.headers(id, false, ":status", "413", "content-type", "text/plain")
		p.fr.WriteData(id, true, []byte("too much"))
		p.fr.WriteRSTStream(id, http2.ErrCodeNo)
		p.fr.WriteGoAway(id, http2.ErrCodeNo, nil)
		p.conn.(interface{ CloseWrite() error }).CloseWrite()
		io.Copy(io.Discard, p.conn)
	})
	body, feed := io.Pipe()
	go io.Copy(feed, new(pattern))
	defer body.Close()
	res, err := rig.client().Do(newRequest(t, "POST", "/", body))
	if err != nil {
		t.Fatalf("%v; the relay ended with %v", err, <-rig.events)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); res.StatusCode != 413 || string(got) != "too much" || err != nil {
		t.Errorf("got %d %q, %v", res.StatusCode, got, err)
	}
}

// TestHTTP2SmallReads: who reads 4 KiB at a time, as fast as he can, widens two windows for each, which is no flood.
func TestHTTP2SmallReads(t *testing.T) {
	const size = 32 << 20
	small := func(r io.Reader) (n int64, err error) {
		for buf := make([]byte, 4<<10); err == nil; {
			var m int
			m, err = r.Read(buf)
			n += int64(m)
		}
		return n, err
	}
	rig := newH2Rig(t)
	rig.handle(func(w http.ResponseWriter, r *http.Request) {
		if n, err := small(r.Body); n != size || err != io.EOF {
			t.Errorf("upload: %d bytes, %v", n, err)
		}
		io.Copy(w, io.LimitReader(new(pattern), size))
	})
	for _, key := range []bool{false, true} {
		req := newRequest(t, "POST", "/", io.LimitReader(new(pattern), size))
		if key {
			keyed(req)
		}
		res, err := rig.client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := small(res.Body); n != size || err != io.EOF {
			t.Errorf("download, key %v: %d bytes, %v", key, n, err)
		}
		res.Body.Close()
	}
}
