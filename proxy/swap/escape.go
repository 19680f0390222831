package swap

import (
	"bytes"
	"unicode/utf8"
)

// writer appends a value in the form that its place asks for. Nil writes it as it is.
type writer func(dst, value []byte) []byte

const upperHex = "0123456789ABCDEF"

// unreserved reports whether a byte stands for itself everywhere in a URL (RFC 3986 §2.3).
func unreserved(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// appendPercent writes a parameter of a query or a form: all but unreserved bytes
// are percent-encoded, a space too, which every decoder of either reads.
func appendPercent(dst, value []byte) []byte {
	for _, c := range value {
		if unreserved(c) {
			dst = append(dst, c)
			continue
		}
		dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
	}
	return dst
}

// appendSegment writes a part of a path segment, where RFC 3986 §3.3 also lets
// sub-delimiters, ":" and "@" stand: Telegram's tokens have a colon.
func appendSegment(dst, value []byte) []byte {
	for _, c := range value {
		switch {
		case unreserved(c):
		case c == ':' || c == '@' || c == '!' || c == '$' || c == '&' || c >= '\'' && c <= ',' || c == ';' || c == '=':
		default:
			dst = append(dst, '%', upperHex[c>>4], upperHex[c&15])
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// appendJSON writes the inside of a JSON string (RFC 8259 §7) as most encoders do, so that
// redact finds it where a server quotes it. The value is UTF-8.
func appendJSON(dst, value []byte) []byte {
	for _, c := range value {
		short := bytes.IndexByte([]byte("\b\f\n\r\t"), c)
		switch {
		case short >= 0:
			dst = append(dst, '\\', "bfnrt"[short])
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', '0'+c>>4, "0123456789abcdef"[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// unescape undoes percent-encoding, and with plus the "+" of forms. It returns text
// itself when nothing is encoded. A percent sign that encodes nothing stays.
func unescape(text []byte, plus bool) []byte {
	first := 0
	for first < len(text) && text[first] != '%' && (!plus || text[first] != '+') {
		first++
	}
	if first == len(text) {
		return text
	}
	out := append(make([]byte, 0, len(text)), text[:first]...)
	for i := first; i < len(text); i++ {
		c, n := unescapeByte(text[i:])
		if plus && n == 1 && c == '+' {
			c = ' '
		}
		out = append(out, c)
		i += n - 1
	}
	return out
}

// unescapeByte returns the byte that text begins with and how long it is there.
func unescapeByte(text []byte) (c byte, n int) {
	if text[0] == '%' && len(text) > 2 {
		high, low := hexDigit(text[1]), hexDigit(text[2])
		if high >= 0 && low >= 0 {
			return byte(high<<4 | low), 3
		}
	}
	return text[0], 1
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

// rawOffset returns where in text the byte at offset of its unescaped form begins.
func rawOffset(text []byte, offset int) int {
	at := 0
	for ; offset > 0 && at < len(text); offset-- {
		_, n := unescapeByte(text[at:])
		at += n
	}
	return at
}

// unquote undoes the escapes of the inside of a JSON string, which is known to be
// well formed. It returns text itself when there are none.
func unquote(text []byte) []byte {
	first := 0
	for first < len(text) && text[first] != '\\' {
		first++
	}
	if first == len(text) {
		return text
	}
	out := append(make([]byte, 0, len(text)), text[:first]...)
	for i := first; i < len(text); i++ {
		if text[i] != '\\' {
			out = append(out, text[i])
			continue
		}
		i++
		switch c := text[i]; c {
		case 'u':
			out = utf8.AppendRune(out, codeUnit(text[i+1:]))
			i += 4
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		default:
			out = append(out, c)
		}
	}
	return out
}

// codeUnit reads four hex digits. Halves of a surrogate pair become U+FFFD: names
// and placeholders are ASCII, so that a text with one is neither.
func codeUnit(digits []byte) rune {
	r := rune(0)
	for _, c := range digits[:4] {
		r = r<<4 | rune(hexDigit(c))
	}
	return r
}
