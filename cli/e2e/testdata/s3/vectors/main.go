// Command vectors prints contents in signed chunks as minio-go signs them, with
// placeholders and with the real keys: go run ./vectors > ../../../../proxy/web/sign/testdata/chunks.json
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"log"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// keys are an access key's id, its secret and a session token.
type keys [3]string

var (
	fake = keys{"AKIA7aRkEr99accessaccessaccessaccess", "ssv_7aRkEr99secretsecretsecretsecretsecret", "ssv_7aRkEr99tokentokentokentokentoken"}
	real = keys{"AKIAREALREALREALREAL", "real/Secret+Key/of/forty/characters/xxxx", "FwoGZXIvYXdzEREAL//token+=="}
	sigs = regexp.MustCompile(`-signature[=:]([0-9a-f]{64})`)
)

// signed is a request: its fields, and the signatures in its content in order.
type signed struct {
	Fields     [][2]string
	Signatures []string
}

type vector struct {
	Name   string
	Target string
	// Content is a format with a verb for each signature; "{N}" stands for N bytes of the
	// pattern "0123456789abcdef".
	Content    string
	Fake, Real signed
}

type sha struct{ hash.Hash }

func (sha) Close() {}

func sign(k keys, token bool, length int, trailer bool) (signed, []byte) {
	const target = "/a%20key"
	body := bytes.Repeat([]byte("0123456789abcdef"), length/16+1)[:length]
	r, err := http.NewRequest("PUT", "https://bucket.s3.us-east-1.amazonaws.com"+target, bytes.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	if trailer {
		r.Trailer = http.Header{"X-Amz-Checksum-Crc32": {"AAAAAA=="}}
	}
	if !token {
		k[2] = ""
	}
	signer.StreamingSignV4(r, k[0], k[1], k[2], "us-east-1", int64(length), time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), sha{sha256.New()})
	content, err := io.ReadAll(r.Body)
	if err != nil {
		log.Fatal(err)
	}
	s := signed{Fields: [][2]string{{"Host", r.URL.Host}}}
	for name, values := range r.Header {
		s.Fields = append(s.Fields, [2]string{name, strings.Join(values, ",")})
	}
	slices.SortFunc(s.Fields, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	for _, m := range sigs.FindAllSubmatch(content, -1) {
		s.Signatures = append(s.Signatures, string(m[1]))
	}
	return s, content
}

// format is content with verbs in place of its signatures and {N} in place of its data.
func format(content []byte) string {
	text := sigs.ReplaceAllStringFunc(string(content), func(s string) string { return s[:len(s)-64] + "%s" })
	return regexp.MustCompile(`\r\n(0123456789abcdef)*[0-9a-f]*\r\n`).ReplaceAllStringFunc(text, func(s string) string {
		if len(s) == 4 {
			return s
		}
		return fmt.Sprintf("\r\n{%d}\r\n", len(s)-4)
	})
}

func main() {
	var out []vector
	for _, length := range []int{0, 5, 65536, 150000} {
		for _, trailer := range []bool{false, true} {
			for _, token := range []bool{false, true} {
				v := vector{Name: fmt.Sprintf("%d bytes", length), Target: "/a%20key"}
				if trailer {
					v.Name += ", a trailer"
				}
				if token {
					v.Name += ", a token"
				}
				var content []byte
				v.Real, _ = sign(real, token, length, trailer)
				v.Fake, content = sign(fake, token, length, trailer)
				v.Content = format(content)
				out = append(out, v)
			}
		}
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", " ")
	e.SetEscapeHTML(false)
	if err := e.Encode(out); err != nil {
		log.Fatal(err)
	}
}
