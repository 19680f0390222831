// Command client uploads and reads objects with minio-go, in the ways that it has: over
// HTTPS with an unsigned trailer, in parts, by a signed URL, and with the signed chunks
// that it otherwise sends over HTTP. It prints one line for each.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"
)

const (
	region = "eu-west-1"
	host   = "s3." + region + ".amazonaws.com"
	bucket = "bucket"
)

type sha struct{ hash.Hash }

func (sha) Close() {}

func main() {
	access, secret, token := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), os.Getenv("AWS_SESSION_TOKEN")
	client, err := minio.New(host, &minio.Options{Creds: credentials.NewStaticV4(access, secret, token), Secure: true, Region: region, TrailingHeaders: true})
	check("client", err)
	client.SetS3EnableDualstack(false)
	ctx := context.Background()
	small, large := pattern(1000), pattern(17<<20)
	put := func(name string, content []byte, options minio.PutObjectOptions) {
		_, err := client.PutObject(ctx, bucket, name, bytes.NewReader(content), int64(len(content)), options)
		check(name, err)
		got, err := client.GetObject(ctx, bucket, name, minio.GetObjectOptions{})
		check(name, err)
		text, err := io.ReadAll(got)
		check(name, err)
		same(name, text, content)
	}
	put("minio-small", small, minio.PutObjectOptions{SendContentMd5: true})
	put("minio-trailer", small, minio.PutObjectOptions{Checksum: minio.ChecksumCRC32C})
	put("minio-parts", large, minio.PutObjectOptions{PartSize: 5 << 20, Checksum: minio.ChecksumCRC32C})

	url, err := client.PresignedPutObject(ctx, bucket, "minio-url", time.Minute)
	check("url", err)
	request, err := http.NewRequest("PUT", url.String(), bytes.NewReader(small))
	check("url", err)
	do("url", request)
	chunks("minio-chunks", access, secret, token, large[:3<<20])
	for object := range client.ListObjects(ctx, bucket, minio.ListObjectsOptions{Prefix: "minio-"}) {
		check("list", object.Err)
		fmt.Println("lists", object.Key, object.Size)
		check("remove", client.RemoveObject(ctx, bucket, object.Key, minio.RemoveObjectOptions{}))
	}
}

// chunks uploads content in signed chunks.
func chunks(name, access, secret, token string, content []byte) {
	request, err := http.NewRequest("PUT", "https://"+bucket+"."+host+"/"+name, bytes.NewReader(content))
	check(name, err)
	do(name, signer.StreamingSignV4(request, access, secret, token, region, int64(len(content)), time.Now().UTC(), sha{sha256.New()}))
}

func do(what string, request *http.Request) {
	answer, err := http.DefaultClient.Do(request)
	check(what, err)
	text, err := io.ReadAll(answer.Body)
	check(what, err)
	if answer.StatusCode != http.StatusOK {
		check(what, fmt.Errorf("%s: %s", answer.Status, text))
	}
	fmt.Println(what, "ok")
}

func pattern(n int) []byte { return bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n] }

func same(what string, got, want []byte) {
	if !bytes.Equal(got, want) {
		check(what, fmt.Errorf("read %d bytes, want %d others", len(got), len(want)))
	}
	fmt.Println(what, "ok")
}

func check(what string, err error) {
	if err != nil {
		fmt.Println(what, err)
		os.Exit(1)
	}
}
