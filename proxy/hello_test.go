package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// record returns the first flight of a client with cfg: a real hello.
func record(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer client.Close()
		tls.Client(client, cfg).Handshake() // fails: nobody answers
	}()
	var buf bytes.Buffer
	server.SetReadDeadline(time.Now().Add(time.Minute))
	head := make([]byte, recordHeader)
	if _, err := io.ReadFull(server, head); err != nil {
		t.Fatal(err)
	}
	buf.Write(head)
	if _, err := io.CopyN(&buf, server, int64(head[3])<<8|int64(head[4])); err != nil {
		t.Fatal(err)
	}
	server.Close()
	<-done
	return buf.Bytes()
}

func realHello(t testing.TB) []byte {
	return record(t, &tls.Config{ServerName: "api.x.com", NextProtos: []string{"h2", "http/1.1"}, InsecureSkipVerify: true})
}

// refragment cuts the handshake message into records of at most size bytes.
func refragment(hello []byte, size int) []byte {
	var out []byte
	for part := range slices.Chunk(hello[recordHeader:], size) {
		out = append(out, 22, 3, 1, byte(len(part)>>8), byte(len(part)))
		out = append(out, part...)
	}
	return out
}

func checkReal(t *testing.T, h *Hello, err error) {
	t.Helper()
	if err != nil || h == nil || h.ServerName != "api.x.com" || !slices.Equal(h.ALPN, []string{"h2", "http/1.1"}) || h.ECH {
		t.Errorf("hello = %+v, %v", h, err)
	}
}

func TestParseHello(t *testing.T) {
	hello := realHello(t)
	t.Run("it reads a real hello", func(t *testing.T) {
		h, need, err := parseHello(hello)
		if need != 0 {
			t.Errorf("need %d more", need)
		}
		checkReal(t, h, err)
	})
	t.Run("it asks for more at every length and never too much", func(t *testing.T) {
		for n := range len(hello) {
			h, need, err := parseHello(hello[:n])
			if h != nil || err != nil || need <= 0 || n+need > len(hello) {
				t.Fatalf("at %d of %d bytes: %v, need %d, %v", n, len(hello), h, need, err)
			}
		}
	})
	t.Run("it joins records of any size", func(t *testing.T) {
		for _, size := range []int{1, 2, 3, 4, 5, 100, 1000} {
			h, need, err := parseHello(refragment(hello, size))
			if need != 0 {
				t.Errorf("records of %d: need %d", size, need)
			}
			checkReal(t, h, err)
		}
	})
	t.Run("it reads a hello of more than 4 KiB", func(t *testing.T) {
		protos := []string{"h2", "http/1.1"}
		for range 25 {
			protos = append(protos, strings.Repeat("p", 200))
		}
		long := record(t, &tls.Config{ServerName: "api.x.com", NextProtos: protos, InsecureSkipVerify: true})
		h, _, err := parseHello(long)
		if err != nil || len(long) < 4096 || h.ServerName != "api.x.com" || len(h.ALPN) != len(protos) {
			t.Errorf("%d bytes: %+v, %v", len(long), h, err)
		}
	})
	t.Run("it finds no name when there is none", func(t *testing.T) {
		h, _, err := parseHello(record(t, &tls.Config{InsecureSkipVerify: true}))
		if err != nil || h.ServerName != "" {
			t.Errorf("%+v, %v", h, err)
		}
	})
	t.Run("it sees an encrypted hello", func(t *testing.T) {
		h, ok := readHello(body(ext(extECH, 1, 2, 3)))
		if !ok || !h.ECH {
			t.Errorf("%+v, %v", h, ok)
		}
	})
}

// body is a hello with the given extensions.
func body(exts ...[]byte) []byte {
	b := make([]byte, 2+32+1)
	b = append(b, 0, 2, 0x13, 1, 1, 0)
	all := slices.Concat(exts...)
	return append(append(b, byte(len(all)>>8), byte(len(all))), all...)
}

func ext(kind int, data ...byte) []byte {
	return append([]byte{byte(kind >> 8), byte(kind), byte(len(data) >> 8), byte(len(data))}, data...)
}

func TestReadHelloRefuses(t *testing.T) {
	sni := ext(extServerName, 0, 4, 0, 0, 1, 'a')
	for name, b := range map[string][]byte{
		"two server_name extensions":    body(sni, sni),
		"two names in one":              body(ext(extServerName, 0, 8, 0, 0, 1, 'a', 0, 0, 1, 'b')),
		"an empty name":                 body(ext(extServerName, 0, 3, 0, 0, 0)),
		"an empty list of names":        body(ext(extServerName, 0, 0)),
		"a name beyond its list":        body(ext(extServerName, 0, 4, 0, 0, 9, 'a')),
		"bytes behind the list":         body(ext(extServerName, 0, 4, 0, 0, 1, 'a', 0)),
		"two ALPN extensions":           body(ext(extALPN, 0, 2, 1, 'a'), ext(extALPN, 0, 2, 1, 'a')),
		"an empty protocol":             body(ext(extALPN, 0, 1, 0)),
		"a protocol beyond its list":    body(ext(extALPN, 0, 2, 5, 'a')),
		"bytes behind the extensions":   append(body(sni), 0),
		"a cut extension":               body(sni[:len(sni)-1]),
		"a cut random":                  make([]byte, 20),
		"more extensions than anyone's": body(bytes.Repeat(ext(0x5555), maxHelloExts+1)),
	} {
		t.Run("it refuses "+name, func(t *testing.T) {
			if h, ok := readHello(b); ok {
				t.Errorf("hello = %+v", h)
			}
		})
	}
	if h, ok := readHello(body(sni)); !ok || h.ServerName != "a" {
		t.Errorf("the well-formed one: %+v, %v", h, ok)
	}
}

func TestParseHelloTellsOthersApart(t *testing.T) {
	for text, want := range map[string]error{
		"GET / HTTP/1.1\r\n": errNotTLS, "SSH-2.0-x": errNotTLS, "*1\r\n": errNotTLS, "\x80\x2e\x01": errNotTLS,
		"\x15\x03\x01\x00\x02": errNotTLS, "\x16\x02": errNotTLS, "\x16\x03\x01\x00\x00": errNotTLS, "\x16\x03\x01\xff\xff": errNotTLS,
		"\x16\x03\x01\x00\x04\x02\x00\x00\x00": errNotTLS, "\x16\x03\x01\x40\x00\x01\x01\x00\x00": errHelloSize,
		"\x16\x03\x01\x00\x04\x01\x00\x00\x00": errHello,
	} {
		if _, _, err := parseHello([]byte(text)); !errors.Is(err, want) {
			t.Errorf("parseHello(%q): %v, want %v", text, err, want)
		}
	}
}

// FuzzParseHello holds the parser to crypto/tls: where both read a hello, they
// read the same names; and it always either needs more, errs or answers.
func FuzzParseHello(f *testing.F) {
	hello := realHello(f)
	f.Add(hello)
	f.Add(refragment(hello, 100))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, need, err := parseHello(b)
		if count(h != nil, need > 0, err != nil) != 1 {
			t.Fatalf("parseHello = %v, %d, %v", h, need, err)
		}
		if h == nil {
			return
		}
		std := standardHello(b)
		if std == nil {
			return
		}
		if strings.TrimSuffix(h.ServerName, ".") != std.ServerName && h.ServerName != std.ServerName || !slices.Equal(h.ALPN, std.SupportedProtos) {
			t.Errorf("read %q %q, crypto/tls %q %q", h.ServerName, h.ALPN, std.ServerName, std.SupportedProtos)
		}
	})
}

func count(all ...bool) (n int) {
	for _, b := range all {
		if b {
			n++
		}
	}
	return n
}

// onlyRead is a connection that has said all it will.
type onlyRead struct {
	net.Conn
	r io.Reader
}

func (c onlyRead) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c onlyRead) Write(p []byte) (int, error) { return len(p), nil }
func (c onlyRead) Close() error                { return nil }

func standardHello(b []byte) *tls.ClientHelloInfo {
	var got *tls.ClientHelloInfo
	cfg := &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		got = h
		return nil, errors.New("enough")
	}}
	tls.Server(onlyRead{r: bytes.NewReader(b)}, cfg).Handshake() // fails always
	return got
}

func BenchmarkParseHello(b *testing.B) {
	hello := realHello(b)
	b.ReportAllocs()
	b.SetBytes(int64(len(hello)))
	for b.Loop() {
		if _, _, err := parseHello(hello); err != nil {
			b.Fatal(err)
		}
	}
}
