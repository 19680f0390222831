package web

import (
	"io"
	"time"

	"golang.org/x/net/http2"
)

const maxDebugBytes = 256

// connFrame relays a frame that is of a connection, not of a stream. other is
// nil when every stream is refused: we are the server then.
func (r *h2relay) connFrame(from, other *h2side, f http2.Frame) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.countControl(from); err != nil {
		return err
	}
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			r.settingsAck(from, other)
			return nil
		}
		return r.settings(from, other, f)
	case *http2.PingFrame:
		// Passed on, so that a keepalive says whether the upstream lives and a
		// round trip is the real one (gRPC measures its bandwidth with them).
		if other == nil {
			if !f.IsAck() {
				from.out.ping(true, f.Data)
			}
			return nil
		}
		if from == r.client && !f.IsAck() && r.answersPing() {
			from.out.ping(true, f.Data)
			return nil
		}
		other.out.ping(f.IsAck(), f.Data)
	case *http2.GoAwayFrame:
		r.goAway(from, other, f)
	}
	// PRIORITY, PRIORITY_UPDATE, ALTSVC, ORIGIN and unknown frames end here.
	return nil
}

// answersPing reports whether a ping of the client is about DATA that a decoder made of
// little of the upstream's. gRPC's clients send one for what they get while they measure
// their bandwidth, and its servers end a connection for three between two frames of their
// own (grpc-go 1.85, "too_many_pings"). The mutex is held.
func (r *h2relay) answersPing() bool {
	ours := r.pinged && r.unpacked
	r.pinged, r.unpacked = true, false
	return ours
}

// goAway passes GOAWAY on. Ids are the same on both sides; those of the client's
// own GOAWAY are pushes, of which there are none.
func (r *h2relay) goAway(from, other *h2side, f *http2.GoAwayFrame) {
	if other == nil {
		return
	}
	if from == r.client {
		other.out.goAway(0, f.ErrCode, "")
		return
	}
	debug := f.DebugData()
	other.out.goAway(r.lastServed(f.LastStreamID), f.ErrCode, r.hide(r.judge.latest(r.set), string(debug[:min(len(debug), maxDebugBytes)])))
}

// settingsAck passes on the acknowledgement of SETTINGS that were passed on.
func (r *h2relay) settingsAck(from, other *h2side) {
	if from.swallow > 0 {
		from.swallow--
		return
	}
	if from.unacked == 0 {
		return
	}
	from.unacked--
	if other != nil {
		other.out.settingsAck()
	}
}

// settings passes on what is between the ends, and obeys what is of this hop.
// The mutex is held.
func (r *h2relay) settings(from, other *h2side, f *http2.SettingsFrame) error {
	first := !from.greeted
	from.greeted = true
	relayed := make([]http2.Setting, 0, 8)
	limits := [2]bool{}
	err := f.ForeachSetting(func(s http2.Setting) error {
		if s.Valid() != nil {
			return fault(settingCode(s.ID), s.Valid())
		}
		switch s.ID {
		case http2.SettingHeaderTableSize:
			from.out.resizeTable(s.Val)
		case http2.SettingInitialWindowSize:
			if from == r.client && !r.resizeWindows(int64(s.Val)) {
				return fault(http2.ErrCodeFlowControl, errOverflow)
			}
			if from == r.upstream {
				r.resizeCredits(int64(s.Val))
			}
			relayed = append(relayed, s)
		case http2.SettingMaxConcurrentStreams:
			if from == r.upstream {
				limits[0] = true
				relayed = append(relayed, http2.Setting{ID: s.ID, Val: min(s.Val, maxStreams)})
			}
		case http2.SettingMaxHeaderListSize:
			limits[1] = true
			relayed = append(relayed, http2.Setting{ID: s.ID, Val: min(s.Val, maxListBytes)})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if other == nil {
		from.out.settingsAck()
		return nil
	}
	if first && !other.told {
		relayed = r.limits(from, relayed, limits)
	}
	other.out.settings(relayed)
	other.told = true
	other.unacked++
	return nil
}

// limits adds what the receiver of first SETTINGS must know of us.
func (r *h2relay) limits(from *h2side, s []http2.Setting, have [2]bool) []http2.Setting {
	if from == r.client {
		s = append(s, http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	} else if !have[0] {
		s = append(s, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: maxStreams})
	}
	if !have[1] {
		s = append(s, http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxListBytes})
	}
	return s
}

func settingCode(id http2.SettingID) http2.ErrCode {
	if id == http2.SettingInitialWindowSize {
		return http2.ErrCodeFlowControl
	}
	return http2.ErrCodeProtocol
}

// resizeWindows applies the client's SETTINGS_INITIAL_WINDOW_SIZE to open
// streams (RFC 9113 §6.9.2) and reports whether no window overflows.
func (r *h2relay) resizeWindows(size int64) bool {
	delta := size - r.client.initial
	r.client.initial = size
	for _, st := range r.streams {
		if st.window += delta; st.window > maxWindow {
			return false
		}
	}
	r.changed.Broadcast()
	return true
}

// greetClient reads the client's preface and first SETTINGS, and sends the
// preface upstream. Without an upstream we send SETTINGS of our own.
func (r *h2relay) greetClient() error {
	_ = r.client.conn.SetReadDeadline(time.Now().Add(h2HeadTimeout))
	defer r.resumeReading()
	var preface [len(http2.ClientPreface)]byte
	if _, err := io.ReadFull(r.client.in, preface[:]); err != nil {
		return err
	}
	if string(preface[:]) != http2.ClientPreface {
		return fault(http2.ErrCodeProtocol, errPreface)
	}
	f, err := r.client.read()
	if err != nil {
		return err
	}
	if s, ok := f.(*http2.SettingsFrame); !ok || s.IsAck() {
		return fault(http2.ErrCodeProtocol, errGreeting)
	}
	r.mu.Lock()
	if r.upstream != nil {
		r.upstream.out.buf = append(r.upstream.out.buf, http2.ClientPreface...)
	}
	r.introduce()
	r.mu.Unlock()
	if err := r.clientFrame(nil, f); err != nil { //nolint:staticcheck // SETTINGS wait for nothing
		return err
	}
	r.flushAll(r.upstream, r.client)
	return nil
}

// introduce sends SETTINGS of our own to the client, before anything else that
// does not wait for the upstream's. The mutex is held.
func (r *h2relay) introduce() {
	if r.client.told {
		return
	}
	r.client.told = true
	r.client.swallow++
	r.client.out.settings(r.limits(r.upstream, nil, [2]bool{}))
}

// resumeReading takes back the deadline of the greeting, unless the relay is
// over and has set one of its own.
func (r *h2relay) resumeReading() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	limit := time.Time{}
	if r.upstream == nil {
		limit = time.Now().Add(answerTime)
	}
	_ = r.client.conn.SetReadDeadline(limit)
}
