package s3test

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/superserve/superserve/proxy/web/sign"
)

// Sign signs a request as a client does, with the hash of body or with the word for its
// payload that the request already has. It returns the signature.
func Sign(r *http.Request, keys Keys, service string, now time.Time, body []byte) string {
	const payload = "X-Amz-Content-Sha256"
	v := sign.V4{Access: keys.ID, Time: now.UTC().Format("20060102T150405Z")}
	region := Region
	if service != "s3" {
		region = STSRegion
	}
	v.Scope = v.Time[:8] + "/" + region + "/" + service + "/aws4_request"
	if r.Header.Get(payload) == "" {
		sum := sha256.Sum256(body)
		r.Header.Set(payload, hex.EncodeToString(sum[:]))
	}
	r.Header.Set("X-Amz-Date", v.Time)
	if keys.Token != "" {
		r.Header.Set("X-Amz-Security-Token", keys.Token)
	}
	v.Signed = []string{"host"}
	for name := range r.Header {
		v.Signed = append(v.Signed, strings.ToLower(name))
	}
	slices.Sort(v.Signed)
	q := &sign.Request{
		Method: r.Method, Target: []byte(r.URL.RequestURI()), Payload: r.Header.Get(payload),
		Header: func(name string) (values [][]byte) {
			if name == "host" {
				return [][]byte{[]byte(r.URL.Host)}
			}
			for _, value := range r.Header.Values(name) {
				values = append(values, []byte(value))
			}
			return values
		},
	}
	if service == "s3" {
		q.Path = sign.PathOnce
	}
	signature := v.Sign(q, []byte(keys.Secret))
	r.Header.Set("Authorization", sign.Algorithm+" Credential="+keys.ID+"/"+v.Scope+", SignedHeaders="+strings.Join(v.Signed, ";")+", Signature="+signature)
	return signature
}

// Presign returns a URL that needs no header to be good for five minutes.
func Presign(method, url string, keys Keys, now time.Time) string {
	v := sign.V4{Access: keys.ID, Time: now.UTC().Format("20060102T150405Z"), Signed: []string{"host"}, Presigned: true}
	v.Scope = v.Time[:8] + "/" + Region + "/s3/aws4_request"
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		panic("s3test: " + err.Error())
	}
	query := r.URL.Query()
	for name, value := range map[string]string{
		"X-Amz-Algorithm": sign.Algorithm, "X-Amz-Credential": keys.ID + "/" + v.Scope, "X-Amz-Date": v.Time,
		"X-Amz-Expires": "300", "X-Amz-SignedHeaders": "host", "X-Amz-Security-Token": keys.Token,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	r.URL.RawQuery = query.Encode()
	signature := v.Sign(&sign.Request{
		Method: method, Target: []byte(r.URL.RequestURI()), Payload: "UNSIGNED-PAYLOAD", Path: sign.PathOnce,
		Header: func(string) [][]byte { return [][]byte{[]byte(r.URL.Host)} },
	}, []byte(keys.Secret))
	return r.URL.String() + "&X-Amz-Signature=" + signature
}
