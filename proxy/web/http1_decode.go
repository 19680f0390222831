package web

import (
	"errors"
	"io"
)

// Read is the undecoded body, for a decoder. What next returned stays in the
// upstream's buffer until it is copied, since fill comes only after that.
func (a *answerBody) Read(p []byte) (int, error) {
	for len(a.pending) == 0 {
		if a.ended {
			return 0, io.EOF
		}
		var err error
		if a.pending, err = a.next(); err != nil {
			return 0, err
		}
		if len(a.pending) > 0 || a.ended {
			continue
		}
		if err := a.r.flush(); err != nil { // the head must not wait for what it heads
			return 0, err
		}
		if err := a.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, a.pending)
	a.pending = a.pending[n:]
	return n, nil
}

// relayDecoded decodes, redacts and passes on a compressed body.
func (a *answerBody) relayDecoded() error {
	buf := takeBuffer(recordBuffer)
	defer giveBuffer(buf)
	if c, ok := a.decoded.(io.Closer); ok {
		defer c.Close() //nolint:errcheck // frees memory only
	}
	for {
		n, err := a.decoded.Read(buf)
		if !a.redact(buf[:n]) {
			return errTruncated
		}
		if errors.Is(err, io.EOF) {
			return a.finish()
		}
		if err != nil {
			return errTruncated
		}
		if err := a.r.flush(); err != nil {
			return err
		}
	}
}
