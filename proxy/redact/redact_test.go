package redact

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"html/template"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/superserve/superserve/secretd/api"
)

func secret(s string) api.Secret { return func() []byte { return []byte(s) } }

func pair(key, placeholder string) Pair { return Pair{Secret: secret(key), Placeholder: placeholder} }

// keys are shapes of real keys, with a placeholder each: of the same length, and
// not.
func keys() []Pair {
	return []Pair{
		pair("sk-ant-api03-Zr8x_Q2v-Lw91hGkdPqT7yBn4MsCeUjXaI0oR5fV6tD3zE", "sk-ant-api03-mARKeR01abcdefghijklmnopqrstuvwxyzABCDEFGHIJK1"),
		pair("p@:/%+&=#\"\\'<>`~ x", "mARKeR01ABCDEFGHIJKLMNOPQRSTUVWX"),
		pair("0123456789", "mARKeR01qq"),
		pair("////++++>>>>????", "mARKeR01wwwwwwww"),
		pair("aaaaaaaaaaaaaaaaaaaaaaaa", "mARKeR01wwwwwwwwwwwwwwww"),
		pair("short", "mARKeR01"),
	}
}

func run(s *Set, chunks ...[]byte) []byte {
	var out []byte
	st := s.Stream()
	for _, c := range chunks {
		out = st.Append(out, c)
	}
	return st.Flush(out)
}

// trusting is run by a Set that has not seen guesses yet.
func trusting(s *Set, chunks ...[]byte) []byte {
	s.probes.Store(0)
	return run(s, chunks...)
}

// spellings are made by encoders that are not this package's.
func spellings(key string) map[string]string {
	quoted, _ := json.Marshal(key)
	twice, _ := json.Marshal(string(quoted))
	var page bytes.Buffer
	template.Must(template.New("").Parse("{{.}}")).Execute(&page, key)
	all := map[string]string{
		"raw": key, "hex": hex.EncodeToString([]byte(key)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(key))),
		"hex with spaces": fmt.Sprintf("% x", key),
		"query twice":     url.QueryEscape(strings.ReplaceAll(url.QueryEscape(key), "+", "%20")),
		"query":           url.QueryEscape(key), "path": url.PathEscape(key), "userinfo": url.UserPassword(key, "").String(),
		"json": strings.Trim(string(quoted), `"`), "json twice": string(twice[3 : len(twice)-3]),
		"html": html.EscapeString(key), "html/template": page.String(),
	}
	if !strings.ContainsAny(key, `"\<>&`) {
		all["php json"] = strings.ReplaceAll(key, "/", `\/`)
	}
	for name, format := range map[string]string{"%": "%%%02X", "% lower": "%%%02x", `\u`: `\u%04x`, `\x`: `\x%02x`, "&#": "&#%d;", "&#x": "&#x%x;"} {
		var b strings.Builder
		for _, c := range []byte(key) {
			fmt.Fprintf(&b, format, c)
		}
		all[name] = b.String()
	}
	return all
}

func TestRedactsEverySpelling(t *testing.T) {
	for _, p := range keys() {
		key := string(p.Secret())
		s := New([]Pair{p})
		for name, form := range spellings(key) {
			t.Run(fmt.Sprintf("it hides %q as %s", key, name), func(t *testing.T) {
				in := "data: {" + form + "}\n\n"
				out := string(run(s, []byte(in)))
				if strings.Contains(out, form) {
					t.Fatalf("got %q; the form is still there", out)
				}
				if len(out) != len(in) || out[:7] != in[:7] || out[len(out)-3:] != "}\n\n" {
					t.Fatalf("got %q of %d bytes; want %d and the rest unchanged", out, len(out), len(in))
				}
			})
		}
	}
}

// TestRedactsPasswordsOfPeople has what json.dumps, json_encode and System.Text.Json make of one that is not ASCII.
func TestRedactsPasswordsOfPeople(t *testing.T) {
	s := New([]Pair{pair("pä/ßwört€😀", "mARKeR01mARKeR01")})
	for name, form := range map[string]string{
		"itself": "pä/ßwört€😀", "Python": `p\u00e4/\u00dfw\u00f6rt\u20ac\ud83d\ude00`, "PHP": `p\u00e4\/\u00dfw\u00f6rt\u20ac\ud83d\ude00`,
		".NET": `p\u00E4/\u00DFw\u00F6rt\u20AC\uD83D\uDE00`, "Python, twice": `p\\u00e4/\\u00dfw\\u00f6rt\\u20ac\\ud83d\\ude00`,
	} {
		if out := string(run(s, []byte(`{"`+form+`"}`))); strings.Contains(out, form) {
			t.Errorf("%s: got %s", name, out)
		}
	}
}

func TestRedactsBase64AtEveryOffset(t *testing.T) {
	const key, fake = "sk_live_51H8xQ2eZvKYlo2C9x7Gk?>~", "sk_live_mARKeR01bcdefghijklmnopq"
	s := New([]Pair{pair(key, fake)})
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		for before := range 7 {
			for after := range 4 {
				in := encoding.EncodeToString([]byte("prefix!"[:before] + key + "tail"[:after]))
				out := string(run(s, []byte(in)))
				plain, err := encoding.DecodeString(out)
				if err != nil || len(out) != len(in) {
					t.Fatalf("base64 of %d+key+%d: got %q, %v; want valid base64 of the same length", before, after, out, err)
				}
				// The last byte shares a character with what follows it.
				want := "prefix!"[:before] + fake[:len(fake)-1]
				if !strings.HasPrefix(string(plain), want) {
					t.Errorf("base64 of %d+key+%d decodes to %q; want the placeholder", before, after, plain)
				}
				if strings.Contains(string(plain), key[10:20]) {
					t.Errorf("base64 of %d+key+%d shows the key", before, after)
				}
			}
		}
	}
}

func TestRedactsBasicCredentials(t *testing.T) {
	const key = "ghp_realrealrealrealrealrealrealrealreal"
	for _, tt := range []struct{ name, before, after, fake string }{
		{"password", "x-access-token:", "", "ghp_mARKeR01fakefakefakefakefakefakefake"},
		{"user", "", ":", "ghp_mARKeR01fakefakefakefakefakefakefake"},
		{"both sides", "a:", "b", "ghp_mARKeR01fakefakefakefakefakefakefake"},
		{"another length", "me:", "", "ghp_mARKeR01"},
	} {
		t.Run("it hides a key sent as "+tt.name, func(t *testing.T) {
			s := New([]Pair{{Secret: secret(key), Placeholder: tt.fake, Before: tt.before, After: tt.after}})
			in := base64.StdEncoding.EncodeToString([]byte(tt.before + key + tt.after))
			out := string(s.Value([]byte("Basic " + in)))
			want := "Basic " + base64.StdEncoding.EncodeToString([]byte(tt.before+tt.fake+tt.after))
			if len(tt.fake) != len(key) {
				want = "Basic " + string(mask([]byte(tt.fake), len(in)))
			}
			if out != want {
				t.Fatalf("got %q; want %q", out, want)
			}
		})
	}
}

func TestPlaceholderTakesTheKeysPlace(t *testing.T) {
	s := New([]Pair{pair("real-key-0123456789", "fake-mARKeR01234567")})
	got := string(run(s, []byte(`{"key":"real-key-0123456789"}`)))
	if want := `{"key":"fake-mARKeR01234567"}`; got != want {
		t.Fatalf("got %q; want %q", got, want)
	}
}

// TestEverySplit cuts a text with many forms at each offset, and at each pair of
// offsets of a shorter one: the result must not depend on it.
func TestEverySplit(t *testing.T) {
	s := New(keys())
	for _, p := range keys() {
		key := string(p.Secret())
		text := []byte("x" + key + key + "\n" + base64.StdEncoding.EncodeToString([]byte("u:"+key)) + " " + url.QueryEscape(key) +
			hex.EncodeToString([]byte(key)) + key[:len(key)-1] + ".")
		want := trusting(s, text)
		for i := range text {
			got := trusting(s, text[:i], text[i:])
			check(t, s, text, got)
			if !bytes.Equal(got, want) && !overlapping(key) {
				t.Fatalf("split at %d: got %q; want %q", i, got, want)
			}
		}
		if bytewise := trusting(s, bytes.SplitAfter(text, nil)...); len(bytewise) != len(text) {
			t.Fatalf("byte by byte: got %d bytes; want %d", len(bytewise), len(text))
		}
		for i := 0; i < len(text); i += 7 {
			for j := i; j < len(text); j += 11 {
				check(t, s, text, trusting(s, text[:i], text[i:j], text[j:]))
			}
		}
	}
}

func overlapping(key string) bool { return strings.Count(key, key[:1]) > len(key)/3 }

// check is the oracle: no form left, the same length, and each byte either as it
// was or inside an occurrence of a form.
func check(t *testing.T, s *Set, in, out []byte) {
	t.Helper()
	if len(in) != len(out) {
		t.Fatalf("got %d bytes; want %d", len(out), len(in))
	}
	inside := make([]bool, len(in))
	for i := range s.forms {
		f := s.forms[i].needle
		if bytes.Contains(out, f) {
			t.Fatalf("form %q is in %q (from %q)", f, out, in)
		}
		for at := bytes.Index(in, f); at >= 0; {
			mark(inside[at : at+len(f)])
			next := bytes.Index(in[at+1:], f)
			if next < 0 {
				break
			}
			at += 1 + next
		}
	}
	for i := range in {
		if in[i] != out[i] && !inside[i] {
			t.Fatalf("byte %d changed from %q to %q in %q", i, in[i], out[i], in)
		}
	}
}

func mark(b []bool) {
	for i := range b {
		b[i] = true
	}
}

func TestHoldsBackOnlyBeginnings(t *testing.T) {
	s := New([]Pair{pair("sk-ant-0123456789abcdef", "sk-ant-mARKeR01xxxxxxxx")})
	for _, tt := range []struct {
		in   string
		held int
	}{
		{"data: hello\n\n", 0},
		{"data: {}", 0},
		{"data: s", 1},
		{"data: sk-ant-", 7},
		{"data: sk-ant-0123456789abcde", 22},
		{"data: sk-ant-0123456789abcdef", 0},
		{"data: sk-ant-0123456789abcdeX", 0},
	} {
		t.Run(fmt.Sprintf("it holds %d of %q", tt.held, tt.in), func(t *testing.T) {
			st := s.Stream()
			out := st.Append(nil, []byte(tt.in))
			if st.Held() != tt.held || len(out)+tt.held != len(tt.in) {
				t.Fatalf("got %d held, %d out; want %d held", st.Held(), len(out), tt.held)
			}
			if clean := s.Stream().Clean([]byte(tt.in)); clean != (string(out) == tt.in) {
				t.Fatalf("Clean says %v; the output is %q", clean, out)
			}
		})
	}
}

// TestGuessing plays an agent that has an upstream repeat what it sends, and looks
// at what comes back before it sends on.
func TestGuessing(t *testing.T) {
	const key, fake = "sk-ant-0f1e2d3c4b5a69788796a5b4c3d2e1f0", "sk-ant-mARKeR01"
	s := New([]Pair{pair(key, fake)})
	found := "sk-ant-"
	for len(found) < len(key) && !s.Probed() {
		for _, c := range "0123456789abcdef" {
			st := s.Stream()
			guess := found + string(c)
			if out := st.Append(nil, []byte(guess)); len(out) == 0 {
				found = guess // and the stream is left open
				break
			}
		}
	}
	if known := len(found) - len("sk-ant-"); known > guessed+maxProbes {
		t.Errorf("an agent finds %d bytes of the key: %q", known, found)
	}
	for _, text := range []string{"sk-ant-0f1e2", "sk-ant-xxxxx", "............"} {
		if st := s.Stream(); len(st.Append(nil, []byte(text))) != 0 {
			t.Errorf("after that %q is told from other text", text)
		}
	}
	if out := run(s, []byte("a "+key), []byte(" b")); string(out) != "a "+string(mask([]byte(fake), len(key)))+" b" {
		t.Errorf("after that keys are not hidden: %q", out)
	}
}

func TestHonestDataIsNoGuess(t *testing.T) {
	p := keys()[0]
	s := New([]Pair{p})
	key := string(p.Secret())
	for i := range key {
		run(s, []byte("x "+key[:i]), []byte(key[i:]+" y"))
		run(s, []byte("x "+p.Placeholder[:i]), []byte(p.Placeholder[i:]+" y"))
		run(s, []byte("x "+spellings(key)["hex"][:i]), []byte(spellings(key)["hex"][i:]))
	}
	if s.Probed() {
		t.Error("echoes of key and placeholder count as guesses")
	}
}

// TestCompleteValuesTellNothing wants a beginning of a key, at the end of a value or
// of a body, to stay: else it would be told from a wrong guess.
func TestCompleteValuesTellNothing(t *testing.T) {
	const key = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
	s := New([]Pair{pair(key, "mARKeR01")})
	for n := 1; n < len(key); n++ {
		in := "x=" + key[:n]
		if out := string(s.Value([]byte(in))); out != in {
			t.Errorf("value: got %q; want %q", out, in)
		}
		if out := string(run(s, []byte(in))); out != in {
			t.Errorf("body: got %q; want %q", out, in)
		}
	}
}

func TestOverlapsStayHidden(t *testing.T) {
	s := New([]Pair{pair("abcdefghij", "mARKeR01xx"), pair("fghijklmno", "mARKeR01yy"), pair("abcdefghijklmnopqrst", "mARKeR01zzzzzzzzzzzz")})
	for in, want := range map[string]string{
		"-abcdefghijklmno-":        "-mARKeR01xx*****-",
		"-abcdefghijklmnopqrst-":   "-mARKeR01zzzzzzzzzzzz-",
		"-fghijklmno-":             "-mARKeR01yy-",
		"abcdefghijabcdefghijklmn": "mARKeR01xxmARKeR01xxklmn",
	} {
		for i := range in {
			if got := string(trusting(s, []byte(in[:i]), []byte(in[i:]))); got != want {
				t.Errorf("%q split at %d: got %q; want %q", in, i, got, want)
			}
		}
	}
}

func TestWith(t *testing.T) {
	value := []byte("first-value-0001")
	p := []Pair{{Secret: func() []byte { return value }, Placeholder: "mARKeR01"}}
	s := New(p)
	if s.With(p) != s {
		t.Fatal("With made a new Set although nothing changed")
	}
	value = []byte("other-value-0002")
	wide := s.With(p)
	st := s.Stream()
	st.Widen(wide)
	out := string(st.Flush(st.Append(nil, []byte("first-value-0001 other-value-0002"))))
	if strings.Contains(out, "value") {
		t.Fatalf("got %q; want both values hidden", out)
	}
	if allocs := testing.AllocsPerRun(100, func() { wide.With(p) }); allocs != 0 {
		t.Errorf("With of what is covered allocates %v times", allocs)
	}
}

func TestCache(t *testing.T) {
	var c Cache
	if c.Probed() {
		t.Error("an empty Cache says that it was probed")
	}
	a, b := []Pair{pair("first-value-0001", "mARKeR01a")}, []Pair{pair("other-value-0002", "mARKeR01b")}
	first := c.With(nil, a)
	if c.With(nil, a) != first || c.With(first, a) != first {
		t.Error("the same pairs gave another Set")
	}
	both := c.With(first, b)
	if out := string(run(both, []byte("first-value-0001 other-value-0002"))); strings.Contains(out, "value") {
		t.Errorf("got %q; want both values hidden", out)
	}
	if c.With(first, a) != first {
		t.Error("a Set that is enough was replaced")
	}
	for range maxProbes {
		first.Stream().Append(nil, []byte("first-val"))
	}
	if !both.Probed() || !c.Probed() {
		t.Error("guesses are not counted over all Sets")
	}
}

func TestSurroundingsAreBounded(t *testing.T) {
	s := New(nil)
	for i := range 1000 {
		s = s.With([]Pair{{Secret: secret("the-real-key-012"), Placeholder: "mARKeR01", Before: fmt.Sprint("user", i, ":")}})
	}
	if len(s.keys) > maxKeys {
		t.Fatalf("got %d keys; want at most %d", len(s.keys), maxKeys)
	}
}

func TestKeysAreWiped(t *testing.T) {
	s := New([]Pair{pair("the-real-key-0123456789", "mARKeR01")})
	blocks, slots := s.arena.blocks, s.table.slots
	for i := range s.forms {
		if !slices.ContainsFunc(blocks, func(b []byte) bool { return within(b, s.forms[i].needle) }) {
			t.Fatalf("form %d lies outside the arena", i)
		}
	}
	runtime.KeepAlive(s)
	for end := time.Now().Add(time.Minute); ; runtime.Gosched() {
		runtime.GC()
		clean := !slices.ContainsFunc(blocks, func(b []byte) bool { return len(bytes.Trim(b, "\x00")) > 0 })
		if clean && !slices.ContainsFunc(slots, func(s slot) bool { return s != slot{} }) {
			return
		}
		if time.Now().After(end) {
			t.Fatal("a copy of the key is not wiped")
		}
	}
}

// within reports whether p is a part of block's memory.
func within(block, p []byte) bool {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(p))) - uintptr(unsafe.Pointer(unsafe.SliceData(block)))
	return at < uintptr(len(block))
}

func TestEmpty(t *testing.T) {
	var none *Set
	for name, s := range map[string]*Set{"nil": none, "no pairs": New(nil), "a revoked key": New([]Pair{{Secret: func() []byte { return nil }}}), "three bytes": New([]Pair{pair("abc", "x")})} {
		t.Run("it changes nothing with "+name, func(t *testing.T) {
			if got := string(run(s, []byte("abc"))); got != "abc" || !s.Empty() {
				t.Fatalf("got %q, empty %v", got, s.Empty())
			}
			if p := []byte("abc"); &s.Value(p)[0] != &p[0] {
				t.Fatal("Value copied")
			}
		})
	}
}

func TestAllocations(t *testing.T) {
	s := New(keys())
	text := bytes.Repeat([]byte("event: content_block_delta\ndata: {\"type\":\"text\"}\n\n"), 40)
	dst := make([]byte, 0, 2*len(text))
	st := s.Stream()
	for name, f := range map[string]func(){
		"Append": func() { st.Append(dst, text) },
		"Clean":  func() { st.Clean(text) },
		"Value":  func() { s.Value(text[:40]) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s of clean text allocates %v times; want 0", name, n)
		}
	}
}

func FuzzStream(f *testing.F) {
	f.Add([]byte("sk-live-0123456789"), []byte("x sk-live-0123456789 y"), uint16(5), uint16(9))
	f.Add([]byte("aaaaaaaaaaaa"), []byte("aaaaaaaaaaaaaaaaaaaaaaaaaaa"), uint16(5), uint16(13))
	f.Add([]byte("abababab"), []byte("abababababab ababab"), uint16(1), uint16(3))
	f.Add([]byte("key!"), []byte("kkey!ey!key"), uint16(2), uint16(6))
	f.Add([]byte("////++++====\"\\"), []byte("2F%2f\\/\\/\\u002b"), uint16(2), uint16(6))
	f.Fuzz(func(t *testing.T, key, text []byte, a, b uint16) {
		if len(key) > 200 || len(text) > 4096 || bytes.Contains(key, []byte("*")) {
			return
		}
		// A placeholder that no form of the key can be made of.
		s := New([]Pair{{Secret: func() []byte { return key }, Placeholder: "\x00\x01\x02\x03\x00\x01\x02\x03", Before: "u:"}})
		defer runtime.KeepAlive(s)
		for _, form := range s.forms {
			if bytes.ContainsAny(form.needle, "\x00\x01\x02\x03") {
				return
			}
		}
		// Sow the key among the text, as it is and encoded.
		i, j := int(a)%(len(text)+1), int(b)%(len(text)+1)
		text = append(append(append(bytes.Clone(text[:i]), key...), text[i:]...), base64.StdEncoding.EncodeToString(append([]byte("u:"), key...))...)
		got := trusting(s, text[:min(i, j)], text[min(i, j):max(i, j)], text[max(i, j):])
		check(t, s, text, got)
		check(t, s, text, run(s, bytes.SplitAfter(text, nil)...))
		check(t, s, text, s.Value(text))
	})
}
