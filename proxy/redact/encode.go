package redact

import (
	"encoding/hex"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// encoder appends a spelling of b to dst, at most worst bytes a byte.
type encoder func(dst, b []byte) []byte

// encoders are those that leave most keys short.
func encoders() []encoder {
	return []encoder{
		raw, hex.AppendEncode, hexUpper, hexSpaced,
		percentUpper, percentLower, percentSlash, percentComponent, percentPath, percentUser, percentSegment, percentPlus, percentTwice,
		jsonPlain, jsonSlash, jsonGo, jsonUpper, jsonNet, jsonTwice, jsonGoTwice,
		htmlPlain, htmlString, htmlGo, htmlPython, htmlMustache,
	}
}

// asciiEncoders are for keys that are not ASCII, as passwords of people are.
func asciiEncoders() []encoder {
	return []encoder{ascii(jsonPlain, lowerDigits), ascii(jsonSlash, lowerDigits), ascii(jsonNet, upperDigits), asciiTwice}
}

// escapers escape every byte.
func escapers() []encoder {
	return []encoder{
		each(`\x`, lowerDigits, ""), each(`\x`, upperDigits, ""),
		each(`%`, lowerDigits, ""), each(`%`, upperDigits, ""),
		each(`\u00`, lowerDigits, ""), each(`\u00`, upperDigits, ""),
		each(`&#x`, lowerDigits, ";"), each(`&#x`, upperDigits, ";"), htmlDecimal,
	}
}

const (
	lowerDigits = "0123456789abcdef"
	upperDigits = "0123456789ABCDEF"
)

func raw(dst, b []byte) []byte { return append(dst, b...) }

func hexUpper(dst, b []byte) []byte { return each("", upperDigits, "")(dst, b) }

// hexSpaced is how S3 shows the bytes of a request whose signature it did not expect, session token included.
func hexSpaced(dst, b []byte) []byte {
	at := len(dst)
	dst = each(" ", lowerDigits, "")(dst, b)
	return dst[:at+copy(dst[at:], dst[min(at+1, len(dst)):])]
}

// each writes two hex digits a byte between before and after.
func each(before, digits, after string) encoder {
	return func(dst, b []byte) []byte {
		for _, c := range b {
			dst = append(dst, before...)
			dst = append(dst, digits[c>>4], digits[c&15])
			dst = append(dst, after...)
		}
		return dst
	}
}

// The percent-encodings: RFC 3986 §2.3 with digits of either case; Python's quote,
// which leaves the slash; encodeURIComponent; Go's PathEscape and userinfo; and
// forms, which write a space as plus.
func percentUpper(dst, b []byte) []byte     { return appendPercent(dst, b, "", upperDigits) }
func percentLower(dst, b []byte) []byte     { return appendPercent(dst, b, "", lowerDigits) }
func percentSlash(dst, b []byte) []byte     { return appendPercent(dst, b, "/", upperDigits) }
func percentComponent(dst, b []byte) []byte { return appendPercent(dst, b, "!*'()", upperDigits) }
func percentPath(dst, b []byte) []byte      { return appendPercent(dst, b, "$&+=:@", upperDigits) }
func percentUser(dst, b []byte) []byte      { return appendPercent(dst, b, "$&+,;=", upperDigits) }

// percentSegment leaves all that RFC 3986 §3.3 lets stand in a path, as package swap writes keys there.
func percentSegment(dst, b []byte) []byte { return appendPercent(dst, b, "!$&'()*+,;=:@", upperDigits) }

func percentPlus(dst, b []byte) []byte {
	at := len(dst)
	dst = appendPercent(dst, b, " ", upperDigits)
	for i := at; i < len(dst); i++ {
		if dst[i] == ' ' {
			dst[i] = '+'
		}
	}
	return dst
}

// percentTwice is a URL inside the query of another, as sign-ins have it.
func percentTwice(dst, b []byte) []byte { return twice(dst, b, percentUpper) }

func appendPercent(dst, b []byte, safe, digits string) []byte {
	for _, c := range b {
		if isAlnum(c) || strings.IndexByte("-_.~", c) >= 0 || strings.IndexByte(safe, c) >= 0 {
			dst = append(dst, c)
			continue
		}
		dst = append(dst, '%', digits[c>>4], digits[c&15])
	}
	return dst
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// The JSON encoders: what RFC 8259 §7 demands; PHP, which escapes the slash; Go
// and Rails, which escape HTML in lower case; others that do so in upper case;
// System.Text.Json, which adds the plus and quotes; and JSON inside JSON.
func jsonPlain(dst, b []byte) []byte { return appendJSON(dst, b, "", "", lowerDigits) }
func jsonSlash(dst, b []byte) []byte { return appendJSON(dst, b, "/", "", lowerDigits) }
func jsonGo(dst, b []byte) []byte    { return appendJSON(dst, b, "", "<>&", lowerDigits) }
func jsonUpper(dst, b []byte) []byte { return appendJSON(dst, b, "", "<>&'", upperDigits) }
func jsonNet(dst, b []byte) []byte   { return appendJSON(dst, b, "", "<>&'\"+`", upperDigits) }

func jsonTwice(dst, b []byte) []byte   { return twice(dst, b, jsonPlain) }
func jsonGoTwice(dst, b []byte) []byte { return twice(dst, b, jsonGo) }

// ascii is e, and what is not ASCII in UTF-16 as \u: Python's and PHP's way unless told otherwise, and .NET's.
func ascii(e encoder, digits string) encoder {
	return func(dst, b []byte) []byte {
		for len(b) > 0 {
			r, n := utf8.DecodeRune(b)
			if r < utf8.RuneSelf {
				dst = e(dst, b[:1])
			} else {
				for _, unit := range utf16.AppendRune(nil, r) {
					dst = append(dst, '\\', 'u', digits[unit>>12], digits[unit>>8&15], digits[unit>>4&15], digits[unit&15])
				}
			}
			b = b[n:]
		}
		return dst
	}
}

func asciiTwice(dst, b []byte) []byte { return twice(dst, b, ascii(jsonPlain, lowerDigits)) }

func twice(dst, b []byte, e encoder) []byte {
	once := e(make([]byte, 0, worst*len(b)), b)
	defer clear(once)
	// A key of many escapes would outgrow worst. Only control bytes and < > & in
	// bulk do that, and no provider's key is made of those.
	if len(once)*2 > worst*len(b) {
		return append(dst, once...)
	}
	return e(dst, once)
}

func appendJSON(dst, b []byte, backslashed, coded, digits string) []byte {
	for _, c := range b {
		short := strings.IndexByte("\b\f\n\r\t", c)
		switch {
		case short >= 0:
			dst = append(dst, '\\', "bfnrt"[short])
		case c < ' ' || strings.IndexByte(coded, c) >= 0:
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		case c == '"' || c == '\\' || strings.IndexByte(backslashed, c) >= 0:
			dst = append(dst, '\\', c)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// The HTML encoders: text content; Go's html and html/template; Python's
// html.escape; and the Mustache family. Each entity stands behind the byte that it replaces.
func htmlPlain(dst, b []byte) []byte  { return appendHTML(dst, b) }
func htmlString(dst, b []byte) []byte { return appendHTML(dst, b, `"&#34;`, `'&#39;`) }
func htmlGo(dst, b []byte) []byte     { return appendHTML(dst, b, `"&#34;`, `'&#39;`, `+&#43;`) }
func htmlPython(dst, b []byte) []byte { return appendHTML(dst, b, `"&quot;`, `'&#x27;`) }

func htmlMustache(dst, b []byte) []byte {
	return appendHTML(dst, b, `"&quot;`, `'&#39;`, `/&#x2F;`, "`&#x60;", `=&#x3D;`)
}

func appendHTML(dst, b []byte, more ...string) []byte {
	for _, c := range b {
		switch c {
		case '&':
			dst = append(dst, "&amp;"...)
		case '<':
			dst = append(dst, "&lt;"...)
		case '>':
			dst = append(dst, "&gt;"...)
		default:
			dst = appendEntity(dst, c, more)
		}
	}
	return dst
}

func appendEntity(dst []byte, c byte, more []string) []byte {
	for _, m := range more {
		if m[0] == c {
			return append(dst, m[1:]...)
		}
	}
	return append(dst, c)
}

func htmlDecimal(dst, b []byte) []byte {
	for _, c := range b {
		dst = append(dst, '&', '#')
		dst = strconv.AppendUint(dst, uint64(c), 10)
		dst = append(dst, ';')
	}
	return dst
}
