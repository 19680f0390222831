package swap

import (
	"bytes"
	"encoding/json"
	"mime"
	"strings"

	"github.com/superserve/superserve/secretd/api"
)

// MaxBody is the longest content, in bytes, that can be judged. Of a longer one no
// placeholder is replaced.
const MaxBody = 1 << 20

// MaxSigned is the longest content, in bytes, whose hash a signature may cover without
// a field that repeats it. Bedrock takes 25 MB, Lambda 6.
const MaxSigned = 32 << 20

// BodyLimit returns how much of a content that WantsBody asked for is to be read.
func (s *Swapper) BodyLimit(t *Target, fields []Field) int {
	s = s.now()
	if s.signs && needsHash(fields) && s.bindsKind(t, api.UseSigV4) {
		return MaxSigned
	}
	return MaxBody
}

// bodyForm is how a content is written.
type bodyForm byte

const (
	opaque bodyForm = iota
	urlencoded
	formData
	jsonText
)

// WantsBody reports whether the content of a request to t with these fields can hold
// a secret where a binding lets it stand: then it is to be read whole, decoded, and
// given to Judge. Runs without such a binding cost one look.
func (s *Swapper) WantsBody(t *Target, fields []Field) bool {
	s = s.now()
	if s.signs && needsHash(fields) && s.bindsKind(t, api.UseSigV4) {
		return true
	}
	if !s.bodies || s.signs && streamed(fields) {
		return false
	}
	switch form, _ := contentForm(fields); form {
	case urlencoded, formData:
		return s.bindsKind(t, api.UseForm) || s.bindsTokens(t, form) != nil
	case jsonText:
		return s.bindsKind(t, api.UseJSON) || s.bindsTokens(t, form) != nil
	}
	return false
}

// contentForm reads Content-Type. Two of them, one that does not parse, or a charset
// in which ASCII may mean something else make a content opaque.
func contentForm(fields []Field) (form bodyForm, boundary string) {
	var value []byte
	for i := range fields {
		if !equalFold(fields[i].Name, "content-type") {
			continue
		}
		if value != nil {
			return opaque, ""
		}
		value = fields[i].Value
	}
	media, params, err := mime.ParseMediaType(string(value))
	if err != nil {
		return opaque, ""
	}
	switch strings.ToLower(params["charset"]) {
	case "", "utf-8", "utf8", "us-ascii", "iso-8859-1":
	default:
		return opaque, ""
	}
	switch {
	case media == "application/x-www-form-urlencoded":
		return urlencoded, ""
	case media == "multipart/form-data" && params["boundary"] != "" && len(params["boundary"]) <= 70:
		return formData, params["boundary"]
	case media == "application/json" || media == "text/json" || strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json"):
		return jsonText, ""
	}
	return opaque, ""
}

// findBody examines the fields of a content that some binding at t names.
func (s *Swapper) findBody(found []finding, t *Target, q *Request) []finding {
	switch form, boundary := contentForm(q.Fields); {
	case form == urlencoded && (s.bindsKind(t, api.UseForm) || s.bindsTokens(t, form) != nil):
		return s.findParams(found, t, api.UseForm, atBody, q.Body, 0)
	case form == formData && (s.bindsKind(t, api.UseForm) || s.bindsTokens(t, form) != nil):
		return s.findParts(found, t, q.Body, boundary)
	case form == jsonText && (s.bindsKind(t, api.UseJSON) || s.bindsTokens(t, form) != nil) && json.Valid(q.Body):
		return s.findMembers(found, t, q.Body)
	}
	return found
}

// findParts examines the fields of a multipart/form-data content (RFC 7578). One
// that is not written strictly is left alone, all of it.
func (s *Swapper) findParts(found []finding, t *Target, body []byte, boundary string) []finding {
	first := len(found)
	delimiter := []byte("\r\n--" + boundary)
	if !bytes.HasPrefix(body, delimiter[2:]) {
		return found
	}
	at := len(delimiter) - 2
	for !bytes.HasPrefix(body[at:], []byte("--")) {
		if !bytes.HasPrefix(body[at:], []byte("\r\n")) {
			return found[:first]
		}
		head := bytes.Index(body[at:], []byte("\r\n\r\n"))
		if head < 0 {
			return found[:first]
		}
		start := at + head + 4
		length := bytes.Index(body[start:], delimiter)
		if length < 0 {
			return found[:first]
		}
		if use, weak, bound := s.bindsAt(t, api.UseForm, []byte(partName(body[at:start]))); bound {
			f := s.placed(finding{site: atBody, value: body, use: use, weak: weak}, t, body[start:start+length], start, start+length, nil)
			f.boundary = delimiter[2:]
			found = append(found, f)
		}
		at = start + length + len(delimiter)
	}
	return found
}

// partName returns the name of a plain field from the head of its part, "" for a
// file, an encoded part, or a head that is not plain.
func partName(head []byte) string {
	name := ""
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case equalFold(key, "content-disposition"):
			kind, params, err := mime.ParseMediaType(string(bytes.TrimSpace(value)))
			if err != nil || kind != "form-data" || name != "" || params["filename"] != "" {
				return ""
			}
			name = params["name"]
		case equalFold(key, "content-transfer-encoding"):
			return ""
		}
	}
	return name
}
