package secretd

import (
	"bytes"
	"strings"
	"testing"
)

// keeping keeps the buffers that it is given.
type keeping struct{ buffers [][]byte }

func (k *keeping) Write(p []byte) (int, error) {
	k.buffers = append(k.buffers, p)
	return len(p), nil
}

// TestBackupLinesAreWiped: the first line has the root key.
func TestBackupLinesAreWiped(t *testing.T) {
	for n := range 64 {
		var k keeping
		if err := writeLine(&k, backupHead{Store: strings.Repeat("s", n), Root: bytes.Repeat([]byte{0xff}, 32)}); err != nil {
			t.Fatal(err)
		}
		for _, p := range k.buffers {
			if len(bytes.Trim(p, "\x00\n")) > 0 {
				t.Fatalf("with a name of %d: a line of %d bytes is left in memory", n, len(p))
			}
		}
	}
}
