package lease

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/secretd/api"
)

// stream is a net.Conn that reads from memory and forgets what is written.
type stream struct {
	net.Conn
	io.Reader
}

func (s stream) Read(p []byte) (int, error)     { return s.Reader.Read(p) }
func (stream) Write(p []byte) (int, error)      { return len(p), nil }
func (stream) SetReadDeadline(time.Time) error  { return nil }
func (stream) SetWriteDeadline(time.Time) error { return nil }
func (stream) Close() error                     { return nil }

func encoded(t testing.TB, frames ...frame) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, f := range frames {
		binary.Write(&b, binary.BigEndian, uint32(frameFixed+len(f.payload)))
		b.WriteByte(byte(f.kind))
		binary.Write(&b, binary.BigEndian, f.id)
		b.Write(f.payload)
	}
	return b.Bytes()
}

func TestReadFrame(t *testing.T) {
	good := frame{kindValue, 7, []byte("value")}
	got, err := readFrame(stream{Reader: bytes.NewReader(encoded(t, good))})
	if err != nil || got.kind != good.kind || got.id != good.id || !bytes.Equal(got.payload, good.payload) {
		t.Fatalf("got %+v, %v", got, err)
	}
	for name, tt := range map[string]struct {
		in   []byte
		want error
	}{
		"refuses a short length":    {[]byte{0, 0, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0}, errProtocol},
		"refuses a huge length":     {[]byte{0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0}, errProtocol},
		"sees a cut in the head":    {[]byte{0, 0}, io.ErrUnexpectedEOF},
		"sees a cut in the payload": {encoded(t, good)[:15], io.ErrUnexpectedEOF},
		"sees the end":              {nil, io.EOF},
	} {
		t.Run("it "+name, func(t *testing.T) {
			if _, err := readFrame(stream{Reader: bytes.NewReader(tt.in)}); !errors.Is(err, tt.want) {
				t.Fatalf("got %v; want %v", err, tt.want)
			}
		})
	}
}

func TestHandshakeOfAnotherVersion(t *testing.T) {
	other := []byte{0, 99, 0, 0}
	t.Run("it is refused by secretd", func(t *testing.T) {
		a, b := pair(t)
		defer b.Close()
		done := make(chan error, 1)
		go func() { done <- Serve(context.Background(), a, &keeper{}, nil) }()
		if err := writeFrame(b, kindHello, 0, other); err != nil {
			t.Fatal(err)
		}
		f, err := readFrame(b)
		if err != nil || f.kind != kindRefusal || api.FromCode(api.ErrorCode(f.payload[0])) != api.ErrVersion {
			t.Fatalf("got %+v, %v; want a refusal", f, err)
		}
		if err := <-done; !errors.Is(err, api.ErrVersion) {
			t.Fatalf("got %v; want ErrVersion", err)
		}
	})
	t.Run("it is refused by the proxy", func(t *testing.T) {
		a, b := pair(t)
		defer a.Close()
		if err := writeFrame(a, kindHello, 0, other); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(b, Options{}); !errors.Is(err, api.ErrVersion) {
			t.Fatalf("got %v; want ErrVersion", err)
		}
	})
	t.Run("it reads secretd's refusal", func(t *testing.T) {
		a, b := pair(t)
		defer a.Close()
		if err := writeFrame(a, kindRefusal, 0, []byte{byte(api.Code(api.ErrVersion))}); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(b, Options{}); !errors.Is(err, api.ErrVersion) {
			t.Fatalf("got %v; want ErrVersion", err)
		}
	})
}

func TestRequestsCrossTheWire(t *testing.T) {
	for _, want := range []api.ResolveRequest{
		request(),
		{Placeholder: "p", Addr: "203.0.113.7", Port: 1, Use: api.Use{Kind: api.UseHeader, Arg: "x-api-key"}},
		{},
	} {
		got, err := parseRequest(appendRequest(nil, want))
		if err != nil || got != want {
			t.Errorf("%v: %s", err, cmp.Diff(want, got))
		}
	}
	for name, r := range map[string]api.ResolveRequest{
		"upper-case host": {Host: "X.com"},
		"final dot":       {Host: "x.com."},
		"IP as host":      {Host: "127.0.0.1"},
		"unknown use":     {Use: api.Use{Kind: "sneaky"}},
		"odd header":      {Use: api.Use{Kind: api.UseHeader, Arg: "X-Api-Key"}},
		"colon in kind":   {Use: api.Use{Kind: "header:x"}},
	} {
		if _, err := parseRequest(appendRequest(nil, r)); !errors.Is(err, errProtocol) {
			t.Errorf("%s: got %v; want errProtocol", name, err)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(appendRequest(nil, request()))
	f.Add([]byte{1, 187, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 255, 255})
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := parseRequest(p)
		if err != nil {
			return
		}
		if again := appendRequest(nil, r); !bytes.Equal(again, p) {
			t.Fatalf("%x decodes to what encodes as %x", p, again)
		}
	})
}

func FuzzParseRenewal(f *testing.F) {
	f.Add(appendRenewal(nil, api.Renewal{Placeholder: "p", Refresh: []byte("r"), ID: []byte("i")}))
	f.Add(appendRenewal(nil, api.Renewal{Placeholder: "p", Expires: time.Unix(1800000000, 0)}))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 'p', 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := parseRenewal(p)
		if err != nil {
			return
		}
		if again := appendRenewal(nil, r); !bytes.Equal(again, p) {
			t.Fatalf("%x decodes to what encodes as %x", p, again)
		}
	})
}

// FuzzServe feeds arbitrary bytes to secretd's end after a greeting.
func FuzzServe(f *testing.F) {
	hello := frame{kindHello, 0, helloPayload(0)}
	f.Add(encoded(f, hello, frame{kindResolve, 1, appendRequest(nil, request())}))
	f.Add(encoded(f, hello, frame{kindValue, 1, nil}))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		_ = Serve(context.Background(), stream{Reader: bytes.NewReader(p)}, &keeper{value: []byte("v")}, nil)
	})
}

// FuzzOpen feeds arbitrary bytes to the proxy's end.
func FuzzOpen(f *testing.F) {
	hello := frame{kindHello, 0, []byte{0, api.Version, 0, 1}}
	f.Add(encoded(f, hello, frame{kindEntry, 0, []byte(`{"name":"K","placeholder":"p","binding":{}}`)}, frame{kindChange, 0, []byte(`{"name":"K","kind":"revoked"}`)}))
	f.Add(encoded(f, hello, frame{kindEntry, 0, []byte(`{}`)}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		l, err := Open(stream{Reader: bytes.NewReader(p)}, Options{})
		if err == nil {
			l.Close()
		}
	})
}
