package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// ErrNotEnded means that a log has no last seal, so that lines may still come.
var ErrNotEnded = errors.New("the log has not ended")

// Prune removes the log at path, which has ended, and says so in the list of seals first: Verify then knows that
// it was taken away, by whom holds the key, and how many lines it had. It does not look whether the log
// is whole; Verify does, and what it finds fault with should be kept.
func Prune(key *Key, path string) error {
	s := NewSealer(key, path, "")
	list, err := readSeals(s.list, key.Public())
	if err != nil {
		return fmt.Errorf("prune log: %w", err)
	}
	pruned := false
	for _, seal := range list.all {
		s.resume(seal)
		pruned = pruned || seal.Pruned && seal.Log == filepath.Base(path)
	}
	switch {
	case list.bad != 0:
		return fmt.Errorf("prune log: seal %d was changed, cut or put elsewhere", list.bad)
	case !s.ended:
		return fmt.Errorf("prune log %q: %w", filepath.Base(path), ErrNotEnded)
	}
	if !pruned { // else somebody was killed before the file was gone
		err = s.append(Seal{
			Time: time.Now().UTC(), Log: filepath.Base(path), Agent: s.agent,
			Lines: s.mark.lines, Bytes: s.mark.bytes, End: true, Pruned: true,
		})
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("prune log: %w", err)
	}
	return nil
}
