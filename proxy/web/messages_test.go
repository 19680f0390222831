package web

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// keyMark stands in a message where the answer has the key, and a form of it.
const keyMark = "{key}"

// reveal is what a service that repeats its caller's key says to a message.
func reveal(ctx context.Context, p []byte) []byte {
	key := strings.TrimPrefix(authorization(ctx), "Bearer ")
	return bytes.ReplaceAll(p, []byte(keyMark), []byte(strings.Join(manyForms(key), " ")))
}

func manyForms(key string) []string {
	return []string{key, hex.EncodeToString([]byte(key)), base64.StdEncoding.EncodeToString([]byte(key)), url.QueryEscape(key + "/")}
}

// keyService has a method of each kind, which answers messages with what reveal makes of them.
var keyService = grpc.ServiceDesc{
	ServiceName: "test.Key",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := &wrapperspb.BytesValue{}
		if err := decode(in); err != nil {
			return nil, err
		}
		return wrapperspb.Bytes(reveal(ctx, in.Value)), nil
	}}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Server", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			in := &wrapperspb.BytesValue{}
			if err := s.RecvMsg(in); err != nil {
				return err
			}
			for range 10 {
				if err := s.SendMsg(wrapperspb.Bytes(reveal(s.Context(), in.Value))); err != nil {
					return err
				}
			}
			return nil
		}},
		{StreamName: "Client", ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			var all []byte
			for {
				in := &wrapperspb.BytesValue{}
				if err := s.RecvMsg(in); err == io.EOF {
					return s.SendMsg(wrapperspb.Bytes(reveal(s.Context(), all)))
				} else if err != nil {
					return err
				}
				all = append(all, in.Value...)
			}
		}},
		{StreamName: "Bidi", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			for {
				in := &wrapperspb.BytesValue{}
				if err := s.RecvMsg(in); err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
				if err := s.SendMsg(wrapperspb.Bytes(reveal(s.Context(), in.Value))); err != nil {
					return err
				}
			}
		}},
	},
}

// packedStats counts the answers' messages that left a server compressed.
type packedStats struct {
	stats.Handler
	packed, plain atomic.Int32
}

func (p *packedStats) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (p *packedStats) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (p *packedStats) HandleConn(context.Context, stats.ConnStats)                       {}
func (p *packedStats) HandleRPC(_ context.Context, s stats.RPCStats) {
	if out, ok := s.(*stats.OutPayload); ok && out.CompressedLength != out.Length {
		p.packed.Add(1)
	} else if ok {
		p.plain.Add(1)
	}
}

// grpcRig serves desc behind the proxy, and returns a client whose calls carry the key.
func grpcRig(t testing.TB, desc *grpc.ServiceDesc, options ...grpc.CallOption) (*grpc.ClientConn, context.Context, *packedStats) {
	t.Helper()
	rig := newH2Rig(t)
	counts := &packedStats{}
	srv := grpc.NewServer(grpc.StatsHandler(counts), grpc.MaxRecvMsgSize(64<<20))
	srv.RegisterService(desc, nil)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(rig.upstream) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	conn, err := grpc.NewClient("passthrough:///"+testHost,
		grpc.WithAuthority(testHost), grpc.WithDefaultCallOptions(options...),
		grpc.WithTransportCredentials(tlsDone{insecure.NewCredentials()}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return rig.dial(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return conn, metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+testPlaceholder), counts
}

// TestGRPCMessages has grpc-go's own client and server, which answers compressed who asks so: all four kinds of calls,
// messages of every size, the key in each.
func TestGRPCMessages(t *testing.T) {
	conn, ctx, counts := grpcRig(t, &keyService, grpc.UseCompressor(gzip.Name), grpc.MaxCallRecvMsgSize(64<<20))
	texts := []string{"hello " + keyMark, strings.Repeat("hello ", 20_000) + keyMark, keyMark + hex.EncodeToString(random(t, 512<<10)), ""}
	for _, text := range texts {
		want := strings.ReplaceAll(text, keyMark, strings.Join(manyForms(testPlaceholder), " "))
		t.Run(fmt.Sprintf("it redacts unary answers of %d bytes", len(text)), func(t *testing.T) {
			out := &wrapperspb.BytesValue{}
			if err := conn.Invoke(ctx, "/test.Key/Unary", wrapperspb.Bytes([]byte(text)), out); err != nil {
				t.Fatal(err)
			}
			wantText(t, out.Value, want)
		})
		for i, kind := range []string{"server", "client", "both"} {
			if len(text) >= 1<<20 {
				break // it takes seconds to compress
			}
			t.Run(fmt.Sprintf("it redacts streams of the %s of %d bytes", kind, len(text)), func(t *testing.T) {
				s, err := conn.NewStream(ctx, &keyService.Streams[i], "/test.Key/"+keyService.Streams[i].StreamName)
				if err != nil {
					t.Fatal(err)
				}
				streamText(t, s, keyService.Streams[i], text, want)
			})
		}
	}
	if counts.packed.Load() != 2*(1+10+1+10)+1 {
		t.Errorf("%d messages were compressed, and %d not", counts.packed.Load(), counts.plain.Load())
	}
}

// streamText sends a text in the way of a kind of call, and wants the answer.
func streamText(t *testing.T, s grpc.ClientStream, kind grpc.StreamDesc, text, want string) {
	t.Helper()
	out := &wrapperspb.BytesValue{}
	turns := 1
	if kind.ServerStreams {
		turns = 10
	}
	for i := range turns {
		if kind.ClientStreams && kind.ServerStreams || i == 0 {
			if err := s.SendMsg(wrapperspb.Bytes([]byte(text))); err != nil {
				t.Fatal(err)
			}
		}
		if i == 0 && !(kind.ClientStreams && kind.ServerStreams) {
			s.CloseSend()
		}
		if err := s.RecvMsg(out); err != nil {
			t.Fatal(err)
		}
		wantText(t, out.Value, want)
	}
	s.CloseSend()
	if err := s.RecvMsg(out); kind.ServerStreams && err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func wantText(t *testing.T, got []byte, want string) {
	t.Helper()
	mustNotHold(t, "a message", got)
	if string(got) != want {
		t.Fatalf("got %d bytes, want %d", len(got), len(want))
	}
}

// random returns n bytes that do not compress.
func random(t testing.TB, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	if _, err := rand.Read(p); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestMessagesAreNotHeldBack has both ends wait for each other, with messages that end in each byte there is: many forms
// of the key begin in it. What ends in more of the key than chance has comes with the next message.
func TestMessagesAreNotHeldBack(t *testing.T) {
	for name, options := range map[string][]grpc.CallOption{"gzip": {grpc.UseCompressor(gzip.Name)}, "no coding": nil} {
		t.Run(name, func(t *testing.T) {
			conn, ctx, _ := grpcRig(t, &keyService, options...)
			s, err := conn.NewStream(ctx, &keyService.Streams[2], "/test.Key/Bidi")
			if err != nil {
				t.Fatal(err)
			}
			say := func(p []byte) []byte {
				t.Helper()
				out := &wrapperspb.BytesValue{}
				if err := s.SendMsg(wrapperspb.Bytes(p)); err != nil {
					t.Fatal(err)
				}
				if err := s.RecvMsg(out); err != nil {
					t.Fatalf("after %q: %v", p, err)
				}
				return out.Value
			}
			for c := range 256 {
				p := append([]byte("the end is "), byte(c))
				if got := say(p); !bytes.Equal(got, p) {
					t.Fatalf("got %q, want %q", got, p)
				}
			}
			for n := range len("sk-test-") + 3 {
				p := []byte(testKey[:n+1])
				if got := say(p); !bytes.Equal(got, p) {
					t.Fatalf("got %q, want %q", got, p)
				}
			}
			wantText(t, say([]byte(keyMark)), strings.Join(manyForms(testPlaceholder), " "))
		})
	}
}

// grpcMessage frames p.
func grpcMessage(flags byte, p string) string {
	return string(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(p)))) + p
}

// TestMessagesInPieces has an upstream cut compressed messages with the key at every byte, into DATA frames.
func TestMessagesInPieces(t *testing.T) {
	rig := newH2Rig(t)
	wire := grpcMessage(1, gzipped("one "+testKey)) + grpcMessage(0, "two "+testKey) + grpcMessage(1, gzipped("three"))
	want := grpcMessage(0, "one "+testPlaceholder) + grpcMessage(0, "two "+testPlaceholder) + grpcMessage(0, "three")
	rig.rawUpstream(func(p *rawPeer) {
		for at := 0; ; at++ {
			id := p.next()
			if id == 0 {
				return
			}
			p.headers(id, false, ":status", "200", "content-type", "application/grpc", "grpc-encoding", "gzip")
			if at == len(wire) {
				for i := range len(wire) {
					p.fr.WriteData(id, false, []byte(wire[i:i+1]))
				}
			} else {
				p.fr.WriteData(id, false, []byte(wire[:at]))
				p.fr.WriteData(id, false, []byte(wire[at:]))
			}
			p.headers(id, true, "grpc-status", "0", "x-key", testKey)
		}
	})
	c := rig.client()
	for range len(wire) + 1 {
		res, body := rig.fetch(c, keyed(newRequest(t, "POST", "/test.Key/Unary", nil)))
		if string(body) != want || res.Trailer.Get("X-Key") != testPlaceholder || res.Header.Get("Grpc-Encoding") != "" {
			t.Fatalf("got %q, %v, %v; want %q", body, res.Header, res.Trailer, want)
		}
	}
}

// TestBadMessagesEndTheCall has answers of gRPC that go wrong behind their head. The client learns what the matter is,
// and the connection goes on.
func TestBadMessagesEndTheCall(t *testing.T) {
	bomb := grpcMessage(1, gzipped(strings.Repeat("\x00", 65<<20)))
	small, _ := proto.Marshal(wrapperspb.Bytes(make([]byte, 2<<20)))
	good := grpcMessage(1, gzipped(testKey))
	long := func(n uint32) string { return string(binary.BigEndian.AppendUint32([]byte{1}, n)) + "x" }
	answers := []struct {
		name, coding, wire string
		ended              bool // by the upstream, without trailers
		want               codes.Code
	}{
		{"a bomb", "gzip", bomb, false, codes.ResourceExhausted},
		{"many small bombs", "gzip", strings.Repeat(grpcMessage(1, gzipped(string(small))), 20), false, codes.ResourceExhausted},
		{"a length of 4 GiB", "gzip", long(1<<32 - 1), false, codes.ResourceExhausted},
		{"a length that lies", "gzip", long(100), true, codes.Internal},
		{"half a message, and trailers", "gzip", good[:len(good)-4], false, codes.Internal},
		{"half a message, and the end", "gzip", good[:len(good)-4], true, codes.Internal},
		{"garbage", "gzip", grpcMessage(1, "no gzip at all"), false, codes.Internal},
		{"another coding than it says", "deflate", good, false, codes.Internal},
		{"a compressed message without a coding", "", good, false, codes.Internal},
		{"a compressed message that is not", "identity", good, false, codes.Internal},
	}
	rig := newH2Rig(t)
	next := 0
	rig.rawUpstream(func(p *rawPeer) {
		for id := p.next(); id != 0; id = p.next() {
			a := answers[next%len(answers)]
			next++
			fields := []string{":status", "200", "content-type", "application/grpc"}
			if a.coding != "" {
				fields = append(fields, "grpc-encoding", a.coding)
			}
			p.headers(id, false, fields...)
			for part := range slices.Chunk([]byte(a.wire), 16<<10) {
				p.fr.WriteData(id, false, part)
			}
			if a.ended {
				p.fr.WriteData(id, true, nil)
			} else {
				p.headers(id, true, "grpc-status", "0")
			}
		}
	})
	conn, err := grpc.NewClient("passthrough:///"+testHost,
		grpc.WithAuthority(testHost), grpc.WithTransportCredentials(tlsDone{insecure.NewCredentials()}),
		grpc.WithInitialConnWindowSize(4<<20), grpc.WithInitialWindowSize(4<<20), // the raw upstream counts no windows
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return rig.dial(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+testPlaceholder)
	for _, a := range answers {
		t.Run("it ends a call for "+a.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			defer cancel()
			s, err := conn.NewStream(ctx, &keyService.Streams[0], "/test.Key/Server")
			if err != nil {
				t.Fatal(err)
			}
			s.SendMsg(wrapperspb.Bytes(nil))
			s.CloseSend()
			for err == nil {
				err = s.RecvMsg(&wrapperspb.BytesValue{})
			}
			got := status.Convert(err)
			if got.Code() != a.want || !strings.HasPrefix(got.Message(), "superserve: a message of the answer ") {
				t.Errorf("got %v; want %v", err, a.want)
			}
		})
	}
}

// TestUnknownMessagesAreRefused has answers whose messages cannot be searched, or whose content has none.
func TestUnknownMessagesAreRefused(t *testing.T) {
	for _, a := range [][2]string{
		{"snappy", "application/grpc"}, {"gzip, gzip", "application/grpc"}, {"dcb", "application/grpc+proto"}, {"gzip", "application/json"}, {"gzip", ""},
		{"gzip", "application/grpc-web-text"}, {"gzip", "application/grpcx"}, {"gzip", "application/connec"},
	} {
		for _, f := range a[1:] {
			c, known := codingOf("", a[0], framingOf(f))
			if known {
				t.Errorf("%q: got %+v", a, c)
			}
		}
	}
	if c, known := codingOf("gzip", "gzip", framedRPC); known {
		t.Errorf("twice: got %+v", c)
	}
	for kind, want := range map[string]framing{
		"application/grpc": framedRPC, "Application/gRPC+proto": framedRPC, "application/grpc; x=y": framedRPC, "application/grpc-web": framedWeb,
		"application/grpc-web+proto": framedWeb, "application/connect+json": framedWeb, "application/proto": framedNot, "": framedNot,
	} {
		if got := framingOf(kind); got != want {
			t.Errorf("%q: got %d, want %d", kind, got, want)
		}
		if got := framingOf([]byte(kind)); got != want {
			t.Errorf("%q: got %d, want %d", kind, got, want)
		}
	}
}

// TestMessagesOfTheWeb has gRPC-Web and a stream of Connect, which speak both versions of HTTP and have what ends them in
// their content, compressed too.
func TestMessagesOfTheWeb(t *testing.T) {
	for _, a := range [][3]string{
		{"Grpc-Encoding", "application/grpc-web+proto", "\x81"}, {"Connect-Content-Encoding", "application/connect+json", "\x03"},
	} {
		backRigs(t, func(t *testing.T, handle func(http.HandlerFunc), client func() *http.Client) {
			handle(func(w http.ResponseWriter, r *http.Request) {
				key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
				w.Header().Set("Content-Type", a[1])
				if r.URL.Path != "/none" {
					w.Header().Set(a[0], r.URL.Path[1:])
				}
				io.WriteString(w, grpcMessage(1, gzipped("one "+key)))
				w.(http.Flusher).Flush()
				io.WriteString(w, grpcMessage(0, "two "+key)+grpcMessage(a[2][0], gzipped("the end of "+key)))
			})
			get := func(path string) (int, http.Header, string, error) {
				res, err := client().Do(keyed(newRequest(t, "POST", path, nil)))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				mustNotHold(t, "an answer", body)
				return res.StatusCode, res.Header, string(body), err
			}
			want := grpcMessage(0, "one "+testPlaceholder) + grpcMessage(0, "two "+testPlaceholder) + grpcMessage(a[2][0]&^1, "the end of "+testPlaceholder)
			if status, head, body, err := get("/gzip"); err != nil || status != 200 || body != want || head.Get(a[0]) != "" || head.Get("Content-Length") != "" {
				t.Errorf("%s: got %d, %v, %q, %v; want %q", a[1], status, head, body, err, want)
			}
			if status, _, body, err := get("/none"); status != 502 && (err == nil || body != "") {
				t.Errorf("%s without a coding: got %d, %q, %v", a[1], status, body, err)
			}
			if status, _, _, _ := get("/snappy"); status != 502 {
				t.Errorf("%s: an unknown coding is answered %d", a[1], status)
			}
			if status, _, body, err := get("/deflate"); status != 502 && (err == nil || body != "") {
				t.Errorf("%s in another coding: got %d, %q, %v", a[1], status, body, err)
			}
		})
	}
}
