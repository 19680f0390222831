package sign

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// publishedChunks are the examples of "Transferring payload in multiple chunks" and of
// the same with trailing headers, in the API reference of Amazon S3: 65 KiB of "a".
var publishedChunks = []struct {
	name, seed string
	stream     Stream
	signatures []string
	end        string
}{
	{"chunks", "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9", SignedChunks, []string{
		"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
		"0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
		"b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
	}, "\r\n"},
	{"trailer", "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e", SignedTrailer, []string{
		"b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
		"1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
		"2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
		"d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435",
	}, "x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:%s\r\n\r\n"},
}

func TestPublishedChunks(t *testing.T) {
	for _, tt := range publishedChunks {
		t.Run(tt.name, func(t *testing.T) {
			content := fmt.Sprintf("10000;chunk-signature=%s\r\n%s\r\n400;chunk-signature=%s\r\n%s\r\n0;chunk-signature=%s\r\n",
				tt.signatures[0], strings.Repeat("a", 65536), tt.signatures[1], strings.Repeat("a", 1024), tt.signatures[2])
			if tt.stream == SignedTrailer {
				content += fmt.Sprintf(tt.end, tt.signatures[3])
			} else {
				content += tt.end
			}
			v := &V4{Scope: "20130524/us-east-1/s3/aws4_request", Time: "20130524T000000Z", Signature: tt.seed}
			c := v.NewChunks(tt.stream, []byte(exampleSecret), []byte(exampleSecret), tt.seed)
			out, err := c.Append(nil, []byte(content))
			if err != nil || c.End() != nil || string(out) != content {
				t.Errorf("%v, %v, %d of %d bytes", err, c.End(), len(out), len(content))
			}
		})
	}
}

// chunkVector is a request of testdata/chunks.json, which minio-go signed with
// placeholders and with real keys (cli/e2e/testdata/s3/vectors).
type chunkVector struct {
	Name, Target, Content string
	Fake, Real            struct {
		Fields     [][2]string
		Signatures []string
	}
}

const (
	vectorFake = "ssv_7aRkEr99secretsecretsecretsecretsecret"
	vectorReal = "real/Secret+Key/of/forty/characters/xxxx"
)

func chunkVectors(t testing.TB) []chunkVector {
	t.Helper()
	text, err := os.ReadFile("testdata/chunks.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []chunkVector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

var vectorData = regexp.MustCompile(`\{[0-9]+\}`)

// content writes a vector's content with signatures.
func (v *chunkVector) content(signatures []string) []byte {
	text := v.Content
	for _, s := range signatures {
		text = strings.Replace(text, "%s", s, 1)
	}
	return vectorData.ReplaceAllFunc([]byte(text), func(b []byte) []byte {
		n, err := strconv.Atoi(string(b[1 : len(b)-1]))
		if err != nil {
			panic(err)
		}
		return bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
	})
}

func (v *chunkVector) field(fields [][2]string, name string) string {
	for _, f := range fields {
		if f[0] == name {
			return f[1]
		}
	}
	return ""
}

// chunks returns the Chunks that turn a vector's fake content into its real one.
func (v *chunkVector) chunks(t testing.TB) *Chunks {
	t.Helper()
	date := v.field(v.Fake.Fields, "X-Amz-Date")
	fake, ok := ParseField([]byte(v.field(v.Fake.Fields, "Authorization")), date)
	real, ok2 := ParseField([]byte(v.field(v.Real.Fields, "Authorization")), date)
	if !ok || !ok2 {
		t.Fatal("the vector's fields do not parse")
	}
	stream := StreamOf(v.field(v.Fake.Fields, "X-Amz-Content-Sha256"))
	return fake.NewChunks(stream, []byte(vectorFake), []byte(vectorReal), real.Signature)
}

// TestChunksAtEverySplit turns contents that minio-go signed with placeholders into what
// it signs with the real keys, whatever way they arrive.
func TestChunksAtEverySplit(t *testing.T) {
	for _, v := range chunkVectors(t) {
		fake, want := v.content(v.Fake.Signatures), v.content(v.Real.Signatures)
		step := 1
		if len(fake) > 1000 {
			step = 997
		}
		for at := 0; at <= len(fake); at += step {
			c := v.chunks(t)
			out, err := c.Append(nil, fake[:at])
			if err == nil {
				out, err = c.Append(out, fake[at:])
			}
			if err != nil || c.End() != nil || !bytes.Equal(out, want) {
				t.Fatalf("%s, split at %d: %v, %v, %d of %d bytes", v.Name, at, err, c.End(), len(out), len(want))
			}
		}
		if len(fake) > 1000 {
			continue
		}
		c, out, err := v.chunks(t), []byte(nil), error(nil)
		for i := 0; i < len(fake) && err == nil; i++ {
			out, err = c.Append(out, fake[i:i+1])
		}
		if err != nil || c.End() != nil || !bytes.Equal(out, want) {
			t.Errorf("%s, byte by byte: %v, %v", v.Name, err, c.End())
		}
	}
}

// TestChunksRefuseChanges changes each byte, and leaves out each end: what was given out
// until then is what was signed, and never all of it.
func TestChunksRefuseChanges(t *testing.T) {
	for _, v := range chunkVectors(t) {
		fake, want := v.content(v.Fake.Signatures), v.content(v.Real.Signatures)
		if len(fake) > 1000 {
			continue
		}
		for at := range fake {
			changed := bytes.Clone(fake)
			changed[at] ^= 1
			for name, content := range map[string][]byte{"changed": changed, "cut": fake[:at]} {
				c := v.chunks(t)
				out, err := c.Append(nil, content)
				if err == nil {
					err = c.End()
				}
				if err == nil || len(out) >= len(want) || !bytes.HasPrefix(want, out) {
					t.Errorf("%s, %s at %d: %v, %q", v.Name, name, at, err, out)
				}
				if more, err := c.Append(nil, fake); err == nil || len(more) > 0 {
					t.Errorf("%s, %s at %d: goes on after an error", v.Name, name, at)
				}
			}
		}
		c := v.chunks(t)
		if _, err := c.Append(nil, append(fake, 'x')); !errors.Is(err, ErrChunkForm) {
			t.Errorf("%s: more than its end: %v", v.Name, err)
		}
	}
}

func TestChunksLimits(t *testing.T) {
	v := chunkVectors(t)[0]
	line := func(size string) string { return size + signatureField + emptyHash + crlf }
	for _, tt := range []struct {
		name, content string
		stream        Stream
		want          error
	}{
		{"the longest chunk", line(fmt.Sprintf("%x", MaxChunk)), SignedChunks, nil},
		{"a longer chunk", line(fmt.Sprintf("%x", MaxChunk+1)), SignedChunks, ErrChunkLength},
		{"a size of nine digits", line("000000005"), SignedChunks, ErrChunkForm},
		{"no size", line(""), SignedChunks, ErrChunkForm},
		{"a negative size", line("-1"), SignedChunks, ErrChunkForm},
		{"another extension", "5;a=b" + line(""), SignedChunks, ErrChunkForm},
		{"an unsigned chunk", "5\r\n01234\r\n", SignedChunks, ErrChunkForm},
		{"a signature in capitals", strings.ToUpper(line("5")), SignedChunks, ErrChunkForm},
		{"a line without an end", strings.Repeat("0", MaxChunkHead+1), SignedChunks, ErrChunkForm},
		{"a bare newline", strings.Replace(line("5"), "\r", "", 1), SignedChunks, ErrChunkForm},
	} {
		c := v.chunks(t)
		if _, err := c.Append(nil, []byte(tt.content)); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	v = chunkVectors(t)[2]
	c := v.chunks(t)
	fake := v.content(v.Fake.Signatures)
	head := fake[:bytes.IndexByte(fake, '\n')+1]
	long := append(bytes.Clone(head), strings.Repeat("x-a:b\r\n", maxTrailer/7+1)...)
	if _, err := c.Append(nil, long); !errors.Is(err, ErrChunkForm) || c.Held() > maxTrailer {
		t.Errorf("a long trailer: %v, %d bytes held", err, c.Held())
	}
	c = v.chunks(t)
	if c.Close(); c.End() == nil {
		t.Error("goes on after Close")
	}
}

// signContent signs data in chunks of a size, as a client would.
func signContent(secret []byte, v *V4, data []byte, size int, trailer string) []byte {
	c := chain{v.key(secret), "\n" + v.Time + "\n" + v.Scope + "\n", v.Signature}
	var out []byte
	for {
		n := min(size, len(data))
		out = fmt.Appendf(out, "%x%s%s\r\n", n, signatureField, c.sign(payloadAlgorithm, sum(data[:n])))
		if n == 0 {
			break
		}
		out = append(append(out, data[:n]...), crlf...)
		data = data[n:]
	}
	if trailer != "" {
		return fmt.Appendf(out, "%s\r\n%s%s\r\n\r\n", trailer, trailerSignature, c.sign(trailerAlgorithm, sum([]byte(trailer+"\n"))))
	}
	return append(out, crlf...)
}

func FuzzChunks(f *testing.F) {
	for _, v := range chunkVectors(f) {
		if content := v.content(v.Fake.Signatures); len(content) < 1000 {
			f.Add(content, uint16(7), true)
		}
	}
	f.Add([]byte("400000;chunk-signature="+emptyHash+"\r\n"), uint16(1), false)
	v := &V4{Scope: "20130524/us-east-1/s3/aws4_request", Time: "20130524T000000Z", Signature: emptyHash}
	fake, real := []byte("fake"), []byte("real")
	f.Fuzz(func(t *testing.T, p []byte, split uint16, trailer bool) {
		stream, text := SignedChunks, ""
		if trailer {
			stream, text = SignedTrailer, "x-amz-checksum-crc32:AAAAAA=="
		}
		for _, content := range [][]byte{p, signContent(fake, v, p, int(split)+1, text)} {
			whole := v.NewChunks(stream, fake, real, emptyHash)
			all, err := whole.Append(nil, content)
			parts := v.NewChunks(stream, fake, real, emptyHash)
			var out []byte
			for rest := content; len(rest) > 0; {
				n := min(int(split)+1, len(rest))
				var perr error
				if out, perr = parts.Append(out, rest[:n]); perr != nil {
					break
				}
				if parts.Held() > MaxChunk+MaxChunkHead+2 {
					t.Fatalf("%d bytes are held", parts.Held())
				}
				rest = rest[n:]
			}
			if (whole.End() == nil) != (parts.End() == nil) || err == nil && !bytes.Equal(out, all) {
				t.Fatalf("the split matters: %v %v", whole.End(), parts.End())
			}
			if len(out) > len(content) {
				t.Fatal("the content grew")
			}
			if whole.End() == nil {
				// Who has the real key takes it, and would have written the same.
				back, err := v.NewChunks(stream, real, fake, emptyHash).Append(nil, all)
				if err != nil || !bytes.Equal(back, content) {
					t.Fatalf("the way back: %v", err)
				}
			}
		}
		c := v.NewChunks(stream, fake, real, emptyHash)
		if _, err := c.Append(nil, signContent(fake, v, p, int(split)+1, text)); err != nil || c.End() != nil {
			t.Fatalf("a good content: %v %v", err, c.End())
		}
	})
}

func sum(p []byte) [sha256.Size]byte { return sha256.Sum256(p) }

func BenchmarkChunks(b *testing.B) {
	v := &V4{Scope: "20130524/us-east-1/s3/aws4_request", Time: "20130524T000000Z", Signature: emptyHash}
	content := signContent([]byte("fake"), v, make([]byte, 1<<20), 64<<10, "")
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	var out []byte
	for b.Loop() {
		c := v.NewChunks(SignedChunks, []byte("fake"), []byte("real"), emptyHash)
		for rest := content; len(rest) > 0; {
			n := min(16<<10, len(rest))
			var err error
			if out, err = c.Append(out[:0], rest[:n]); err != nil {
				b.Fatal(err)
			}
			rest = rest[n:]
		}
	}
}
