package thread_test

import (
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/runtime/thread"
)

func TestGo(t *testing.T) {
	// Enough at once that the first thread would be among them.
	var wg sync.WaitGroup
	var mu sync.Mutex
	hold := make(chan struct{})
	seen := make(map[int]bool)
	const n = 50
	for range n {
		wg.Add(1)
		thread.Go(func() {
			mu.Lock()
			seen[unix.Gettid()] = true
			if len(seen) == n {
				close(hold)
			}
			mu.Unlock()
			<-hold
			wg.Done()
		})
		runtime.Gosched()
	}
	wg.Wait()
	if len(seen) != n || seen[os.Getpid()] {
		t.Errorf("%d functions had %d threads; the first one among them: %t", n, len(seen), seen[os.Getpid()])
	}
}
