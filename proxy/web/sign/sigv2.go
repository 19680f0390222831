package sign

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // it is what the scheme has
	"encoding/base64"
	"slices"
	"strings"
)

// V2 is a signature of Version 2 in a URL of S3. boto3 makes URLs with it unless it is
// told otherwise (botocore 1.43). Its strings are copies.
type V2 struct {
	Access    string // id of the access key
	Signature string // base64
	// Start and End are where the signature stands in the target, percent-encoded.
	Start, End int
	bucket     string // of a host that begins with one
}

// subresources are the parameters of a query that Version 2 signs.
var subresources = [...]string{
	"accelerate", "acl", "analytics", "cors", "defaultObjectAcl", "delete", "inventory", "lifecycle", "location", "logging",
	"metrics", "notification", "object-lock", "partNumber", "policy", "replication", "requestPayment",
	"response-cache-control", "response-content-disposition", "response-content-encoding", "response-content-language",
	"response-content-type", "response-expires", "restore", "select", "select-type", "storageClass", "tagging", "torrent",
	"uploadId", "uploads", "versionId", "versioning", "versions", "website",
}

// ParseQueryV2 reads the parameters of a URL that was signed with Version 2.
func ParseQueryV2(target []byte) (V2, bool) {
	var v V2
	expires := false
	at := bytes.IndexByte(target, '?') + 1
	for part := range bytes.SplitSeq(target[at:], []byte("&")) {
		name, text, _ := bytes.Cut(part, []byte("="))
		switch string(name) {
		case "AWSAccessKeyId":
			v.Access += string(decode(text))
		case "Signature":
			v.End = at + len(part)
			v.Start = v.End - len(text)
			v.Signature += string(decode(text))
		case "Expires":
			expires = len(text) > 0 && !expires
		}
		at += len(part) + 1
	}
	sum, err := base64.StdEncoding.DecodeString(v.Signature)
	return v, v.Access != "" && expires && err == nil && len(sum) == sha1.Size
}

// Sign returns the signature, in base64, that secret gives for r, whose Payload and Path
// are not read.
func (v *V2) Sign(r *Request, secret []byte) string {
	h := hmac.New(sha1.New, secret)
	text := v.stringToSign(r)
	h.Write(text)
	clear(text)
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// Verify reports whether v is the signature that secret gives for r.
func (v *V2) Verify(r *Request, secret []byte) bool {
	for _, v.bucket = range []string{bucketOf(r), ""} {
		if hmac.Equal([]byte(v.Sign(r, secret)), []byte(v.Signature)) {
			return true
		}
	}
	return false
}

// bucketOf is the bucket that a request's host begins with.
func bucketOf(r *Request) string {
	host := bytes.Join(r.Header("host"), nil)
	for _, label := range []string{".s3.", ".s3-"} {
		if i := bytes.Index(host, []byte(label)); i > 0 {
			return string(host[:i])
		}
	}
	return ""
}

// stringToSign may hold a real session token. What a URL has of fields stands in its
// query, in lower case.
func (v *V2) stringToSign(r *Request) []byte {
	path, query, _ := bytes.Cut(r.Target, []byte("?"))
	fields := map[string][]byte{}
	var amz, resources []string
	for part := range bytes.SplitSeq(query, []byte("&")) {
		key, text, equals := bytes.Cut(part, []byte("="))
		name, value := string(key), decode(text)
		fields[name] = value
		switch {
		case strings.HasPrefix(name, "x-amz-"):
			amz = append(amz, name)
		case slices.Contains(subresources[:], name) && equals:
			resources = append(resources, name+"="+string(value))
		case slices.Contains(subresources[:], name):
			resources = append(resources, name)
		}
	}
	for _, name := range []string{"content-md5", "content-type"} {
		if _, ok := fields[name]; !ok {
			fields[name] = bytes.Join(r.Header(name), []byte(","))
		}
	}
	slices.Sort(amz)
	slices.Sort(resources)
	out := append(make([]byte, 0, 2*len(r.Target)+256), r.Method...)
	for _, name := range []string{"content-md5", "content-type", "Expires"} {
		out = append(append(out, '\n'), fields[name]...)
	}
	for _, name := range slices.Compact(amz) {
		out = append(append(append(out, '\n'), name+":"...), bytes.TrimSpace(fields[name])...)
	}
	out = append(out, '\n')
	if v.bucket != "" {
		out = append(append(out, '/'), v.bucket...)
	}
	out = append(out, path...)
	if len(resources) > 0 {
		out = append(append(out, '?'), strings.Join(resources, "&")...)
	}
	return out
}
