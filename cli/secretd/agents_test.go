package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/secretd/api"
	"github.com/superserve/superserve/secretd/client"
	"github.com/superserve/superserve/secretd/store"
	"github.com/superserve/superserve/secretd/store/etcd"
	"github.com/superserve/superserve/secretd/store/etcd/etcdtest"
)

// files is the bytes of an agent's files, which nothing compresses, and what is said of them.
type files struct {
	content []byte
	api.Deployment
	read func(n int) // is told which part is read, nil for nobody
}

func newFiles(size int, seed uint64) *files {
	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	s := &files{content: make([]byte, size)}
	_, _ = io.ReadFull(random, s.content)
	sum := sha256.Sum256(s.content)
	s.Deployment = api.Deployment{Digest: hex.EncodeToString(sum[:]), Size: int64(size), Files: 1, Bytes: int64(size), Source: "/src", Command: []string{"x"}}
	for part := range slices.Chunk(s.content, api.PartSize) {
		sum := sha256.Sum256(part)
		s.Sums = append(s.Sums, sum[:])
	}
	return s
}

// ReadAt implements io.ReaderAt.
func (s *files) ReadAt(p []byte, at int64) (int, error) {
	if s.read != nil {
		s.read(int(at / api.PartSize))
	}
	return bytes.NewReader(s.content).ReadAt(p, at)
}

// memoryFile is an io.WriterAt that the parts of a snapshot fit in.
type memoryFile struct {
	mu sync.Mutex
	p  []byte
}

// WriteAt implements io.WriterAt.
func (m *memoryFile) WriteAt(p []byte, at int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if need := int(at) + len(p); need > len(m.p) {
		m.p = append(m.p, make([]byte, need-len(m.p))...)
	}
	return copy(m.p[at:], p), nil
}

// fetched returns an agent with its files, whole by their digest.
func fetched(t *testing.T, c *client.Client, name string) (api.Agent, error) {
	t.Helper()
	a, err := c.Agent(t.Context(), name)
	if err != nil {
		return a, err
	}
	var m memoryFile
	if err := c.Fetch(t.Context(), a, &m); err != nil {
		return a, err
	}
	sum := sha256.Sum256(m.p)
	if got := hex.EncodeToString(sum[:]); got != a.Digest {
		return a, fmt.Errorf("its files are a mixture: %s, where the record says %s", got, a.Digest)
	}
	return a, nil
}

// shareAgents deploys on one of two hosts and fetches on the other, as large as a deployment may well be.
func shareAgents(t *testing.T, a, b *site) {
	sizes := []int{5 << 20}
	if times(t) > 1 {
		sizes = append(sizes, 50<<20)
	}
	for i, size := range sizes {
		s := newFiles(size, uint64(i))
		began := time.Now()
		sent, err := a.Deploy(t.Context(), "my-agent", s.Deployment, s)
		if err != nil {
			t.Fatal(err)
		}
		stored := time.Since(began)
		began = time.Now()
		got, err := fetched(t, b.Client, "my-agent")
		if err != nil || got.Digest != s.Digest || got.Here || !sent.Here {
			t.Fatalf("%+v, %v; sent %+v", got, err, sent)
		}
		t.Logf("%d MiB: deployed in %v, fetched on the other host in %v", size>>20, stored.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	}
	t.Run("of two hosts that deploy at once one wins whole", func(t *testing.T) { deployAtOnce(t, a, b) })
	if err := b.DeleteAgent(t.Context(), "my-agent"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Agent(t.Context(), "my-agent"); !errors.Is(err, api.ErrNotFound) {
		t.Errorf("deleted on the other host: %v", err)
	}
}

func deployAtOnce(t *testing.T, a, b *site) {
	var wait sync.WaitGroup
	sent := [2]*files{newFiles(3<<20, 100), newFiles(3<<20, 101)}
	for i, host := range []*site{a, b} {
		wait.Go(func() {
			if _, err := host.Deploy(t.Context(), "my-agent", sent[i].Deployment, sent[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for _, host := range []*site{a, b} {
		got, err := fetched(t, host.Client, "my-agent")
		if err != nil || got.Digest != sent[0].Digest && got.Digest != sent[1].Digest {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// TestKillInDeploy kills the daemon at each moment of a deployment: the agent is the old or the new one, whole, what was
// acknowledged is there, and no part is left that nothing speaks of.
func TestKillInDeploy(t *testing.T) {
	v := newVictim(t)
	address := etcdtest.Start(t)
	begin := func(point string) {
		v.cmd = v.command(point, "--socket", socketIn(v.dir), "--store", "etcd+http://"+address+"/superserve")
		serving(t, v.cmd)
	}
	begin("")
	old := newFiles(2<<20, 1)
	if _, err := v.client.Deploy(t.Context(), "my-agent", old.Deployment, old); err != nil {
		t.Fatal(err)
	}
	v.stop()
	seed := uint64(1)
	for range times(t) {
		for _, point := range append([]string{"upload begun", "part stored", "agent replaced", "parts removed"}, changePoints()...) {
			seed++
			s := newFiles(2<<20, seed)
			begin(point)
			if point == "upload begun" || point == "part stored" {
				v.arm()
			} else { // at the change that replaces the agent
				s.read = func(n int) {
					if n == s.Parts()-1 {
						v.arm()
					}
				}
			}
			_, err := v.client.Deploy(t.Context(), "my-agent", s.Deployment, s)
			if point == "parts removed" { // by itself, beside the answer, which may come before it
				_ = v.cmd.Wait()
				v.end(err)
			} else if hit := v.end(err); hit == strings.HasPrefix(point, "none") {
				t.Fatalf("at %q: hit %v, %v", point, hit, err)
			}
			begin("")
			got, failed := fetched(t, v.client, "my-agent")
			if failed != nil || got.Digest != old.Digest && got.Digest != s.Digest || err == nil && got.Digest != s.Digest {
				t.Fatalf("after a kill at %q, acknowledged %v: %+v, %v", point, err == nil, got, failed)
			}
			if got.Digest == s.Digest {
				old = s
			}
			wantNotes(t, address, got.Snapshot)
			v.stop()
		}
	}
}

// wantNotes wants every part in the store to be the agent's, or noted as one to be removed.
func wantNotes(t *testing.T, address, live string) {
	t.Helper()
	known := map[string]bool{live: true}
	for _, key := range keysIn(t, address, "/superserve", "upload/") {
		known[key[strings.LastIndex(key, "/")+1:]] = true
	}
	for _, key := range keysIn(t, address, "/superserve/parts", "") {
		if id, _, _ := strings.Cut(key, "/"); !known[id] {
			t.Errorf("part %s is left, and nothing speaks of it", key)
		}
	}
}

func keysIn(t *testing.T, address, prefix, below string) []string {
	t.Helper()
	s, err := etcd.Open(t.Context(), etcd.Config{Endpoints: []string{"http://" + address}, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var keys []string
	err = s.Walk(context.Background(), below, func(r store.Record) error {
		keys = append(keys, r.Key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// TestRekeyKeepsAgents changes the key of a shared store, in which the files of agents stay as they are.
func TestRekeyKeepsAgents(t *testing.T) {
	store := "etcd+http://" + etcdtest.Start(t) + "/superserve"
	dir := stateDir(t)
	c := client.New(socketIn(dir))
	cmd := command(t, "--state", dir, "--socket", socketIn(dir), "--store", store)
	serving(t, cmd)
	s := newFiles(1<<20, 1)
	if _, err := c.Deploy(t.Context(), "my-agent", s.Deployment, s); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Signal(os.Interrupt)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if out, err := command(t, "rekey", "--state", dir, "--store", store, "--to", "file").CombinedOutput(); err != nil {
		t.Fatalf("rekey: %v: %s", err, out)
	}
	serving(t, command(t, "--state", dir, "--socket", socketIn(dir), "--store", store))
	if got, err := fetched(t, c, "my-agent"); err != nil || got.Digest != s.Digest {
		t.Errorf("after rekey: %+v, %v", got, err)
	}
}
