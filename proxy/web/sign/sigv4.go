// Package sign verifies signatures that an agent made with placeholders, and makes
// them anew with the real keys: AWS Signature Version 4. It never sees a network; everything here is a function of bytes.
package sign

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// Algorithm is the scheme word of the signatures that are understood.
const Algorithm = "AWS4-HMAC-SHA256"

// AnyVersion begins the scheme words of AWS's signatures, whatever their version.
const AnyVersion = "AWS4-"

// Payload words that stand in place of a content's hash.
const (
	unsignedPayload = "UNSIGNED-PAYLOAD"
	emptyHash       = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	streamPrefix    = "STREAMING-"
)

// Limits of what is read of a signature.
const (
	maxSigned = 64       // header names
	maxQuery  = 64 << 10 // bytes
)

// V4 is a signature of a request, as its Authorization field or its query has it. Its
// strings are copies.
type V4 struct {
	Access    string   // id of the access key
	Scope     string   // DATE/REGION/SERVICE/aws4_request
	Signed    []string // names of the signed header fields, in lower case, sorted
	Signature string   // 64 hex digits
	Time      string   // YYYYMMDDTHHMMSSZ
	Presigned bool
}

// Request is what a signature covers.
type Request struct {
	Method string
	Target []byte // path and query in origin-form, as sent
	// Header returns the values of all fields of that lower-case name, in order.
	Header func(name string) [][]byte
	// Payload is the hash of the content in hex, or the word that stands for it.
	Payload string
	// Path is how the path is written in what is signed.
	Path PathForm
}

// PathForm is how the path is written in what is signed.
type PathForm byte

// The forms of a path.
const (
	// PathTwice is normalized and encoded once more than it is sent: all but S3.
	PathTwice PathForm = iota
	// PathOnce is decoded and encoded again: S3.
	PathOnce
	// PathAsSent is for clients of S3 that encode less than they should.
	PathAsSent
)

// ParseField reads the value of an Authorization field.
func ParseField(value []byte, amzDate string) (V4, bool) {
	rest, ok := strings.CutPrefix(string(value), Algorithm+" ")
	if !ok {
		return V4{}, false
	}
	v := V4{Time: amzDate}
	credential, signed := "", ""
	for part := range strings.SplitSeq(rest, ",") {
		name, text, _ := strings.Cut(strings.TrimSpace(part), "=")
		place := map[string]*string{"Credential": &credential, "SignedHeaders": &signed, "Signature": &v.Signature}[name]
		if place == nil || *place != "" {
			return V4{}, false
		}
		*place = text
	}
	return v, v.complete(credential, signed)
}

// ParseQuery reads the parameters of a presigned URL.
func ParseQuery(target []byte) (V4, bool) {
	v := V4{Presigned: true}
	algorithm, credential, signed := "", "", ""
	_, query, _ := bytes.Cut(target, []byte("?"))
	for part := range bytes.SplitSeq(query, []byte("&")) {
		name, text, _ := bytes.Cut(part, []byte("="))
		place := map[string]*string{
			"X-Amz-Algorithm": &algorithm, "X-Amz-Credential": &credential, "X-Amz-SignedHeaders": &signed,
			"X-Amz-Signature": &v.Signature, "X-Amz-Date": &v.Time,
		}[string(name)]
		if place == nil {
			continue
		}
		if *place != "" {
			return V4{}, false
		}
		*place = string(decode(text))
	}
	return v, algorithm == Algorithm && v.complete(credential, signed)
}

// complete reads the parts that have parts, and reports whether all are well formed.
func (v *V4) complete(credential, signed string) bool {
	access, scope, _ := strings.Cut(credential, "/")
	parts := strings.Split(scope, "/")
	if access == "" || len(parts) != 4 || parts[3] != "aws4_request" || len(v.Time) != len("20060102T150405Z") ||
		!strings.HasPrefix(v.Time, parts[0]) || !isHash(v.Signature) {
		return false
	}
	v.Access, v.Scope = access, scope
	v.Signed = strings.Split(signed, ";")
	for _, name := range v.Signed {
		if name == "" || strings.ContainsAny(name, "\n\r: ") || name != strings.ToLower(name) {
			return false
		}
	}
	return len(v.Signed) <= maxSigned && slices.IsSorted(v.Signed) && slices.Contains(v.Signed, "host")
}

func isHash(s string) bool {
	if len(s) != 2*sha256.Size {
		return false
	}
	_, err := hex.DecodeString(s)
	return err == nil && s == strings.ToLower(s)
}

// Service is the service in the scope.
func (v *V4) Service() string { return strings.Split(v.Scope, "/")[2] }

// Sign returns the signature, in hex, that secret gives for r. v's own is not read.
func (v *V4) Sign(r *Request, secret []byte) string {
	key := v.key(secret)
	defer clear(key)
	return hex.EncodeToString(mac(key, v.stringToSign(r)))
}

// Verify reports whether v is the signature that secret gives for r. It tries the
// ways of signing a path and sets r.Path to the one that was used.
func (v *V4) Verify(r *Request, secret []byte) bool {
	forms := [...]PathForm{PathTwice, PathOnce, PathAsSent}
	if strings.HasPrefix(v.Service(), "s3") {
		forms = [...]PathForm{PathOnce, PathAsSent, PathTwice}
	}
	for _, r.Path = range forms {
		if hmac.Equal([]byte(v.Sign(r, secret)), []byte(v.Signature)) {
			return true
		}
	}
	return false
}

// key derives the signing key of v's scope.
func (v *V4) key(secret []byte) []byte {
	key := append([]byte("AWS4"), secret...)
	for part := range strings.SplitSeq(v.Scope, "/") {
		next := mac(key, part)
		clear(key)
		key = next
	}
	return key
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func (v *V4) stringToSign(r *Request) string {
	canonical := v.canonical(r)
	sum := sha256.Sum256(canonical)
	clear(canonical)
	return Algorithm + "\n" + v.Time + "\n" + v.Scope + "\n" + hex.EncodeToString(sum[:])
}

// canonical writes the canonical request, which may hold a real session token.
func (v *V4) canonical(r *Request) []byte {
	path, query, _ := bytes.Cut(r.Target, []byte("?"))
	out := make([]byte, 0, 2*len(r.Target)+2048)
	out = append(append(out, r.Method...), '\n')
	out = append(appendPath(out, path, r.Path), '\n')
	out = append(appendQuery(out, query, v.Presigned), '\n')
	for _, name := range v.Signed {
		out = append(append(out, name...), ':')
		for i, value := range r.Header(name) {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendSquashed(out, value)
		}
		out = append(out, '\n')
	}
	out = append(append(append(out, '\n'), strings.Join(v.Signed, ";")...), '\n')
	return append(out, r.Payload...)
}

// appendSquashed writes a value trimmed and with runs of spaces as one.
func appendSquashed(dst, value []byte) []byte {
	for i, word := range bytes.Fields(value) {
		if i > 0 {
			dst = append(dst, ' ')
		}
		dst = append(dst, word...)
	}
	return dst
}

// appendPath writes the canonical path. Twice encoded, it is normalized first (RFC 3986
// §6.2.2.3).
func appendPath(dst, path []byte, form PathForm) []byte {
	switch form {
	case PathOnce:
		return appendEncoded(dst, decode(path), true)
	case PathAsSent:
		return append(dst, path...)
	}
	var kept [][]byte
	segments := bytes.Split(path, []byte("/"))
	for _, segment := range segments {
		switch string(segment) {
		case "", ".":
		case "..":
			kept = kept[:max(len(kept)-1, 0)]
		default:
			kept = append(kept, segment)
		}
	}
	for _, segment := range kept {
		dst = appendEncoded(append(dst, '/'), segment, false)
	}
	if last := segments[len(segments)-1]; len(kept) == 0 || len(last) == 0 {
		dst = append(dst, '/')
	}
	return dst
}

// appendQuery writes the parameters sorted by name and value, without the signature
// itself.
func appendQuery(dst, query []byte, presigned bool) []byte {
	if len(query) == 0 || len(query) > maxQuery {
		return dst
	}
	var pairs [][2]string
	for part := range bytes.SplitSeq(query, []byte("&")) {
		name, value, _ := bytes.Cut(part, []byte("="))
		if len(part) == 0 || presigned && string(name) == "X-Amz-Signature" {
			continue
		}
		pairs = append(pairs, [2]string{string(appendEncoded(nil, decode(name), false)), string(appendEncoded(nil, decode(value), false))})
	}
	slices.SortFunc(pairs, func(a, b [2]string) int {
		if c := strings.Compare(a[0], b[0]); c != 0 {
			return c
		}
		return strings.Compare(a[1], b[1])
	})
	for i, p := range pairs {
		if i > 0 {
			dst = append(dst, '&')
		}
		dst = append(append(append(dst, p[0]...), '='), p[1]...)
	}
	return dst
}

func appendEncoded(dst, text []byte, path bool) []byte {
	const digits = "0123456789ABCDEF"
	for _, c := range text {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			c == '-' || c == '.' || c == '_' || c == '~' || path && c == '/' {
			dst = append(dst, c)
			continue
		}
		dst = append(dst, '%', digits[c>>4], digits[c&15])
	}
	return dst
}

// decode undoes percent-encoding; what encodes nothing stays.
func decode(text []byte) []byte {
	if bytes.IndexByte(text, '%') < 0 {
		return text
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			var b [1]byte
			if _, err := hex.Decode(b[:], text[i+1:i+3]); err == nil {
				out = append(out, b[0])
				i += 2
				continue
			}
		}
		out = append(out, text[i])
	}
	return out
}

// Payloads returns what the payload of a signed request may be: the value of
// x-amz-content-sha256, or, where there is none, the hash of body. That of a presigned
// URL is mostly not known when it is signed.
func (v *V4) Payloads(contentHash []byte, body []byte) (payloads []string) {
	if v.Presigned {
		payloads = []string{unsignedPayload, emptyHash}
	}
	switch {
	case contentHash != nil:
		payloads = append(payloads, string(contentHash))
	case !v.Presigned:
		sum := sha256.Sum256(body)
		payloads = []string{hex.EncodeToString(sum[:])}
	}
	return payloads
}
