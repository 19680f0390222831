package lease

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/superserve/superserve/secretd/api"
)

// slow is a keeper whose store answers the first question too late.
type slow struct {
	keeper
	asked bool
}

func (s *slow) Resolve(ctx context.Context, r api.ResolveRequest) ([]byte, error) {
	if !s.asked {
		s.asked = true
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.keeper.Resolve(ctx, r)
}

// TestSlowAnswerEndsNoGrant has a question time out, after which the run goes on.
func TestSlowAnswerEndsNoGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		k := &slow{}
		k.value = []byte("value")
		ended := make(chan error, 1)
		go func() { ended <- Serve(context.Background(), a, k, make(chan api.Change)) }()
		l, err := Open(b, Options{Lease: -1})
		if err != nil {
			t.Fatal(err)
		}
		r := api.ResolveRequest{Placeholder: placeholder, Host: "api.x.com", Port: 443, Use: api.Use{Kind: api.UseBearer}}
		if _, err := l.Resolve(context.Background(), r); !errors.Is(err, api.ErrUnavailable) {
			t.Errorf("the slow answer: %v", err)
		}
		time.Sleep(time.Second)
		if s, err := l.Resolve(context.Background(), r); err != nil || string(s()) != "value" {
			t.Errorf("after a slow answer: %v", err)
		}
		l.Close()
		<-ended
	})
}

// TestBufferKeepsNothing reads tokens as secretd does, which come in a renewal.
func TestBufferKeepsNothing(t *testing.T) {
	token := bytes.Repeat([]byte("secret"), 100)
	b := &buffer{from: bytes.NewReader(token)}
	for _, n := range []int{1, 13, 200, len(token)} {
		if _, err := io.ReadFull(b, make([]byte, min(n, len(token)-b.at))); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b.held[:b.at], []byte("secret")) {
			t.Errorf("%d bytes were read, and are there still", b.at)
		}
	}
	if b.held != [requestBuffer]byte{} {
		t.Error("what was read is still there")
	}
}

// TestAnswerThatNobodyWaitsFor gives up a question whose answer is there.
func TestAnswerThatNobodyWaitsFor(t *testing.T) {
	k := newLink(nil)
	id, answer, err := k.enlist()
	if err != nil {
		t.Fatal(err)
	}
	value := []byte("value")
	k.deliver(frame{kind: kindValue, id: id, payload: value})
	k.abandon(id, answer)
	if !bytes.Equal(value, make([]byte, len(value))) {
		t.Errorf("%q was not wiped", value)
	}
}
