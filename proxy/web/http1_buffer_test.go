package web

import (
	"net"
	"testing"
)

// sized notes how much each read asks for, and fills all but a byte of it.
type sized struct {
	net.Conn
	asked []int
}

func (s *sized) Read(p []byte) (int, error) {
	s.asked = append(s.asked, len(p))
	return len(p) - 1, nil
}

// A buffer that was lent for the time of a write comes back as large as it was: a smaller one made each record of a
// download two reads, and it 13 % slower.
func TestLentBuffer(t *testing.T) {
	c := &sized{}
	w := window{conn: c, buf: takeBuffer(recordBuffer)}
	for range 3 {
		if err := w.fill(recordBuffer); err != nil {
			t.Fatal(err)
		}
		w.lend() // something is in it
		if w.buf == nil {
			t.Fatal("a buffer with bytes in it was given away")
		}
		w.consume(len(w.bytes()))
		w.lend()
		w.lend() // again, without harm
		if w.buf != nil {
			t.Fatal("an empty buffer was kept")
		}
	}
	w.rest()
	if err := w.fill(recordBuffer); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{recordBuffer, recordBuffer, recordBuffer, smallBuffer} {
		if c.asked[i] != want {
			t.Errorf("read %d asked for %d bytes, want %d", i, c.asked[i], want)
		}
	}
	w.release()
}
