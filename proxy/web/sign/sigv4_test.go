package sign

import (
	"strings"
	"testing"
)

// The examples of "Authenticating Requests" in the API reference of Amazon S3, and of
// "Signature Version 4" in the reference of IAM.
const (
	exampleID     = "AKIAIOSFODNN7EXAMPLE"
	exampleSecret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

func headers(lines ...string) func(string) [][]byte {
	return func(name string) [][]byte {
		var values [][]byte
		for _, l := range lines {
			key, value, _ := strings.Cut(l, ":")
			if strings.ToLower(key) == name {
				values = append(values, []byte(value))
			}
		}
		return values
	}
}

func TestPublishedSignatures(t *testing.T) {
	const host, date = "Host:examplebucket.s3.amazonaws.com", "x-amz-date:20130524T000000Z"
	empty := "x-amz-content-sha256:" + emptyHash
	for _, tt := range []struct {
		name, method, target, signed, signature, payload string
		fields                                           []string
	}{
		{"get", "GET", "/test.txt", "host;range;x-amz-content-sha256;x-amz-date",
			"f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41", emptyHash, []string{host, "Range:bytes=0-9", empty, date}},
		{"put", "PUT", "/test$file.text", "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
			"98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
			[]string{"Date:Fri, 24 May 2013 00:00:00 GMT", host, date, "x-amz-storage-class:REDUCED_REDUNDANCY",
				"x-amz-content-sha256:44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"}},
		{"lifecycle", "GET", "/?lifecycle", "host;x-amz-content-sha256;x-amz-date",
			"fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543", emptyHash, []string{host, empty, date}},
		{"list", "GET", "/?max-keys=2&prefix=J", "host;x-amz-content-sha256;x-amz-date",
			"34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7", emptyHash, []string{host, empty, date}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, ok := ParseField([]byte(Algorithm+" Credential="+exampleID+"/20130524/us-east-1/s3/aws4_request,SignedHeaders="+tt.signed+
				",Signature="+tt.signature), "20130524T000000Z")
			if !ok {
				t.Fatal("the field does not parse")
			}
			r := &Request{Method: tt.method, Target: []byte(tt.target), Header: headers(tt.fields...), Payload: tt.payload}
			if !v.Verify(r, []byte(exampleSecret)) {
				t.Errorf("got %s; want %s", v.Sign(r, []byte(exampleSecret)), tt.signature)
			}
			if v.Verify(r, []byte(exampleSecret+"x")) {
				t.Error("another secret verifies")
			}
		})
	}
}

func TestPublishedPresigned(t *testing.T) {
	target := "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request" +
		"&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
	v, ok := ParseQuery([]byte(target))
	r := &Request{Method: "GET", Target: []byte(target), Header: headers("Host:examplebucket.s3.amazonaws.com"), Payload: unsignedPayload}
	if !ok || !v.Verify(r, []byte(exampleSecret)) {
		t.Errorf("%v %+v", ok, v)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Algorithm+" Credential=A/20130524/us-east-1/s3/aws4_request, SignedHeaders=host, Signature="+emptyHash, "20130524T000000Z", "/a/../b?c=%zz&=&%20")
	f.Add("", "", "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=A%2F20130524%2Fx%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-SignedHeaders=host&X-Amz-Signature="+emptyHash)
	f.Add("", "", "/k?AWSAccessKeyId=A&Signature=frJIUN8DYpKDtOLCwo%2F%2FyllqDzg%3D&Expires=1&acl&x-amz-security-token=%2B")
	f.Fuzz(func(t *testing.T, field, date, target string) {
		r := &Request{Method: "GET", Target: []byte(target), Header: headers("host:b.s3.amazonaws.com")}
		if v, ok := ParseQueryV2([]byte(target)); ok {
			v.Signature = v.Sign(r, []byte("secret"))
			if string(decode([]byte(target)[v.Start:v.End])) == "" || !v.Verify(r, []byte("secret")) {
				t.Fatal("a signature of Version 2 does not verify")
			}
		}
		r = &Request{Method: "GET", Target: []byte(target), Header: headers("host:h"), Payload: emptyHash}
		for _, parse := range []func() (V4, bool){
			func() (V4, bool) { return ParseField([]byte(field), date) },
			func() (V4, bool) { return ParseQuery([]byte(target)) },
		} {
			v, ok := parse()
			if !ok {
				continue
			}
			for _, path := range []PathForm{PathTwice, PathOnce, PathAsSent} {
				r.Path = path
				v.Signature = v.Sign(r, []byte("secret"))
				if !v.Verify(r, []byte("secret")) {
					t.Fatalf("a signature of form %d does not verify", path)
				}
			}
		}
	})
}
