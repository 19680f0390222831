package redact

// arena holds the copies of keys, so that they lie in few blocks and can be wiped
// together: see copies.
type arena struct {
	blocks [][]byte
	free   []byte
}

// arenaBlock is the size of a block in bytes; longer requests get their own.
const arenaBlock = 16 << 10

// take returns n zero bytes.
func (a *arena) take(n int) []byte {
	if n > len(a.free) {
		a.free = make([]byte, max(n, arenaBlock))
		a.blocks = append(a.blocks, a.free)
	}
	b := a.free[:n:n]
	a.free = a.free[n:]
	return b
}

// untake gives back the last slice that take returned, wiped.
func (a *arena) untake(b []byte) {
	clear(b)
	block := a.blocks[len(a.blocks)-1]
	a.free = block[len(block)-len(a.free)-len(b):]
}

func (a *arena) copy(b []byte) []byte {
	c := a.take(len(b))
	copy(c, b)
	return c
}
