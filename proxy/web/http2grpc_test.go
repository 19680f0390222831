package web

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echoService is a gRPC service without generated code: Unary and Bidi answer
// with what they get, after the authorization that they saw.
var echoService = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := &wrapperspb.StringValue{}
		if err := decode(in); err != nil {
			return nil, err
		}
		if in.Value == "fail" {
			return nil, status.Error(codes.FailedPrecondition, "bad key "+authorization(ctx))
		}
		grpc.SetTrailer(ctx, metadata.Pairs("x-auth", authorization(ctx)))
		return wrapperspb.String(in.Value + " " + authorization(ctx)), nil
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Bidi", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			in := &wrapperspb.StringValue{}
			if err := s.RecvMsg(in); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(wrapperspb.String(in.Value + " " + authorization(s.Context()))); err != nil {
				return err
			}
		}
	}}},
}

func authorization(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get("authorization"), ",")
}

// tlsDone hands gRPC connections whose TLS is done already.
type tlsDone struct {
	credentials.TransportCredentials
}

func (tlsDone) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (d tlsDone) Clone() credentials.TransportCredentials { return d }

func TestHTTP2GRPC(t *testing.T) {
	rig := newH2Rig(t)
	srv := grpc.NewServer()
	srv.RegisterService(&echoService, nil)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(rig.upstream) }()
	t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	conn, err := grpc.NewClient("passthrough:///"+testHost,
		grpc.WithAuthority(testHost),
		grpc.WithTransportCredentials(tlsDone{insecure.NewCredentials()}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return rig.dial(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+testPlaceholder)
	want := "hello Bearer " + testPlaceholder

	t.Run("it swaps in unary calls", func(t *testing.T) {
		out, trailer := &wrapperspb.StringValue{}, metadata.MD{}
		if err := conn.Invoke(ctx, "/test.Echo/Unary", wrapperspb.String("hello"), out, grpc.Trailer(&trailer)); err != nil {
			t.Fatal(err)
		}
		if out.Value != want || trailer.Get("x-auth")[0] != "Bearer "+testPlaceholder {
			t.Errorf("got %q, trailer %v; want %q", out.Value, trailer, want)
		}
	})
	t.Run("it redacts the status message", func(t *testing.T) {
		err := conn.Invoke(ctx, "/test.Echo/Unary", wrapperspb.String("fail"), &wrapperspb.StringValue{})
		if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "bad key Bearer "+testPlaceholder {
			t.Errorf("got %v", err)
		}
	})
	t.Run("it refuses a foreign key as PermissionDenied", func(t *testing.T) {
		foreign := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer mine")
		err := conn.Invoke(foreign, "/test.Echo/Unary", wrapperspb.String("hello"), &wrapperspb.StringValue{})
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("got %v", err)
		}
	})
	t.Run("it streams both ways, one message at a time", func(t *testing.T) {
		stream, err := conn.NewStream(ctx, &echoService.Streams[0], "/test.Echo/Bidi")
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if err := stream.SendMsg(wrapperspb.String("hello")); err != nil {
				t.Fatal(err)
			}
			out := &wrapperspb.StringValue{}
			if err := stream.RecvMsg(out); err != nil || out.Value != want {
				t.Fatalf("got %q, %v", out.Value, err)
			}
		}
		stream.CloseSend()
		if err := stream.RecvMsg(&wrapperspb.StringValue{}); err != io.EOF {
			t.Errorf("at the end: got %v", err)
		}
	})
}
