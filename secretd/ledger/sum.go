package ledger

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/superserve/superserve/secretd/store"
)

// summed sums the records as they are after changes, under the key of t.
//
// The sum is the exclusive or of a keyed hash of each record (an XOR-MAC of a set,
// Bellare, Guérin and Rogaway 1995; sound here because the head is sealed and nobody
// without the key sees a sum), so that a change costs as much as it is long, and not as
// the store is large.
func (l *Ledger) summed(ctx context.Context, changes []store.Change, t *tagger) (head, error) {
	h := head{Generation: l.head.Generation, Anchored: l.head.Anchored}
	changed := make(map[string]bool, len(changes))
	for _, c := range changes {
		changed[c.Key] = true
		if l.counted(c.Key) && !c.Delete {
			h.Records++
			t.into(&h.Sum, store.Record{Key: c.Key, Value: c.Value, Revision: c.Base + 1})
		}
	}
	err := l.Walk(ctx, "", func(r store.Record) error {
		if l.counted(r.Key) && !changed[r.Key] {
			h.Records++
			t.into(&h.Sum, r)
		}
		return nil
	})
	if err != nil {
		return h, fmt.Errorf("read store: %w", err)
	}
	return h, nil
}

// tagger hashes records under one key.
type tagger struct {
	mac hash.Hash
	b   []byte
}

func newTagger(key []byte) *tagger { return &tagger{mac: hmac.New(sha256.New, key)} }

// into adds a record to a sum, or takes it out.
func (t *tagger) into(sum *[32]byte, r store.Record) {
	t.b = binary.BigEndian.AppendUint32(t.b[:0], uint32(len(r.Key)))
	t.b = append(t.b, r.Key...)
	t.b = binary.BigEndian.AppendUint64(t.b, r.Revision)
	t.mac.Reset()
	t.mac.Write(t.b) // a hash takes everything
	t.mac.Write(r.Value)
	t.b = t.mac.Sum(t.b[:0])
	for i, b := range t.b {
		sum[i] ^= b
	}
}
