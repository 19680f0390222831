//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // answers those who ask compressed in the same way
	"google.golang.org/grpc/metadata"
)

const grpcClient = `import os, grpc

key = os.environ["OPENAI_API_KEY"]
print("env=" + key)
raw = lambda b: b
with grpc.secure_channel("api.openai.com:443", grpc.ssl_channel_credentials()) as channel:
    say = channel.unary_unary("/echo.Echo/Say", request_serializer=raw, response_deserializer=raw)
    answer, call = say.with_call(b"hi", metadata=[("authorization", "Bearer " + key)], timeout=60)
    print("answer=" + answer.decode(), call.trailing_metadata())
    answer, call = say.with_call(b"pack " * 100, metadata=[("authorization", "Bearer " + key)], timeout=60, compression=grpc.Compression.Gzip)
    print("packed=" + answer.decode())
    stream = channel.stream_stream("/echo.Echo/Chat", request_serializer=raw, response_deserializer=raw)
    for part in stream(iter([b"one", b"two", b"three"]), metadata=[("authorization", "Bearer " + key)], timeout=60):
        print("part=" + part.decode())
`

// rawCodec leaves messages as they are, so that the test needs no generated code.
type rawCodec struct{}

func (rawCodec) Name() string { return "raw" }
func (rawCodec) Marshal(v any) ([]byte, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("marshal %T", v)
	}
	return *b, nil
}
func (rawCodec) Unmarshal(p []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), p...)
	return nil
}

// TestGRPC makes unary calls, one of them compressed, and a bidirectional stream from grpc's C core: trailers, header
// compression and flow control all pass; the credential in a message and in a trailer does not.
func TestGRPC(t *testing.T) {
	var keys []string
	answer := func(_ any, stream grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(stream.Context())
		key := strings.Join(md.Get("authorization"), ",")
		keys = append(keys, key)
		stream.SetTrailer(metadata.Pairs("x-echo", key))
		for {
			var message []byte
			if err := stream.RecvMsg(&message); err != nil {
				return nil // the client has said all
			}
			reply := []byte(string(message) + " to " + key)
			if err := stream.SendMsg(&reply); err != nil {
				return err
			}
		}
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(answer), grpc.ForceServerCodec(encoding.Codec(rawCodec{})))
	defer server.Stop()
	w := newWorld(t, "api.openai.com")
	w.extra["api.openai.com"] = http.HandlerFunc(server.ServeHTTP)
	w.set("matrix", "OPENAI_API_KEY", openaiKey)
	r := w.run(project(t, map[string]string{
		"superserve.yaml": "name: matrix\ncommand: python3 main.py\nsecrets: [OPENAI_API_KEY]\n",
		"main.py":         grpcClient,
	}))
	if r.code != 0 || !strings.Contains(r.stdout, "answer=hi to ") || strings.Count(r.stdout, "part=") != 3 || !strings.Contains(r.stdout, "packed=pack ") {
		t.Fatalf("exit %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
	}
	if len(keys) != 3 || keys[0] != "Bearer "+openaiKey || keys[1] != keys[0] || keys[2] != keys[0] {
		t.Errorf("the server saw %q, want the real key three times", keys)
	}
	w.wantClean(t, "stdout", r.stdout)
	w.wantClean(t, "stderr", r.stderr)
}
