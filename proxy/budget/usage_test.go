package budget

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Answers as the providers' references have them, shortened.
const (
	anthropicJSON = `{"id":"msg_1","type":"message","model":"claude-sonnet-4-5-20250929","content":[{"type":"text","text":"\"usage\":{\"input_tokens\":9}"},
 {"type":"tool_use","input":{"usage":{"input_tokens":99},"model":"x"}}],"usage":{"input_tokens":10,"cache_creation_input_tokens":30,"cache_read_input_tokens":40,
 "cache_creation":{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":10},"output_tokens":20,"service_tier":"standard"}}`
	anthropicStream = "event: message_start\r\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"claude-haiku-4-5\",\"content\":[],\"usage\":{\"input_tokens\":100,\"cache_read_input_tokens\":5,\"output_tokens\":1}}}\r\n\r\n" +
		"event: ping\r\ndata: {\"type\": \"ping\"}\r\n\r\n: a comment {\r\n\r\n" +
		"event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"{[\\\"\\\\\"}}\r\n\r\n" +
		"event: message_delta\r\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":250}}\r\n\r\n"
	chatJSON   = `{"model":"gpt-4o-2024-08-06","choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107,"prompt_tokens_details":{"cached_tokens":60,"audio_tokens":0}}}`
	chatStream = "data: {\"model\":\"gpt-4o\",\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\ndata: {\"model\":\"gpt-4o\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\ndata: [DONE]\n\n"
	responses  = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"gpt-5-codex\",\"usage\":null}}\n\n" +
		"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-5-codex\",\"output\":[{\"usage\":{\"input_tokens\":1}}],\"usage\":{\"input_tokens\":50,\"input_tokens_details\":{\"cached_tokens\":20},\"output_tokens\":6,\"output_tokens_details\":{\"reasoning_tokens\":2},\"total_tokens\":56}}}\n\n"
)

var answers = []struct {
	name, text string
	want       Usage
}{
	{"reads Anthropic's answers", anthropicJSON, Usage{"claude-sonnet-4-5-20250929", 10, 20, 40, 30, 10}},
	{"reads Anthropic's streams", anthropicStream, Usage{"claude-haiku-4-5", 100, 250, 5, 0, 0}},
	{"reads OpenAI's chat", chatJSON, Usage{"gpt-4o-2024-08-06", 40, 7, 60, 0, 0}},
	{"reads OpenAI's chat as a stream", chatStream, Usage{"gpt-4o", 3, 4, 0, 0, 0}},
	{"reads OpenAI's responses", responses, Usage{"gpt-5-codex", 30, 6, 20, 0, 0}},
	{"finds nothing where nothing is", `{"data":[{"usage":{"input_tokens":5}}],"usage":[{"input_tokens":5}],"usages":{"input_tokens":5}}`, Usage{}},
	{"takes no other numbers", `{"usage":{"input_tokens":-5,"output_tokens":1e9,"prompt_tokens":99999999999999999999,"completion_tokens":"7"}}`, Usage{}},
}

// TestUsage reads each answer whole, byte by byte, and split in two at every place.
func TestUsage(t *testing.T) {
	for _, tt := range answers {
		t.Run("it "+tt.name, func(t *testing.T) {
			read := func(pieces ...string) Usage {
				r := newReader(false)
				for _, p := range pieces {
					r.write([]byte(p))
				}
				return r.usage(0, false)
			}
			if d := cmp.Diff(tt.want, read(tt.text)); d != "" {
				t.Fatalf("-want +got\n%s", d)
			}
			if d := cmp.Diff(tt.want, read(strings.Split(tt.text, "")...)); d != "" {
				t.Errorf("byte by byte: -want +got\n%s", d)
			}
			for i := range tt.text {
				if got := read(tt.text[:i], tt.text[i:]); got != tt.want {
					t.Fatalf("split at %d: %+v", i, got)
				}
			}
		})
	}
}

// TestEstimates has answers that do not say what they cost: cut off, or not asked to.
func TestEstimates(t *testing.T) {
	cut := anthropicStream[:strings.Index(anthropicStream, "event: message_delta")]
	silent := strings.Repeat("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n", 100)
	for _, tt := range []struct {
		name, text string
		sent       int64
		input, out int64
	}{
		{"counts events of a stream that is cut off", cut, 4000, 100, 4},
		{"counts events of a stream without usage", silent, 4000, 1000, 100},
		{"counts the bytes of a document that is cut off", chatJSON[:80], 400, 100, 20},
		{"counts the request where nothing came", "", 400, 100, 0},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			r := newReader(false)
			r.write([]byte(tt.text))
			if u := r.usage(tt.sent, true); u.Input+u.CacheRead != tt.input && u.Input != tt.input || u.Output != tt.out {
				t.Errorf("got %+v, want %d in and %d out", u, tt.input, tt.out)
			}
			if u := r.usage(tt.sent, false); u.Output > 1 {
				t.Errorf("an answer that costs nothing: %+v", u)
			}
		})
	}
}

func TestSocketsAddUp(t *testing.T) {
	r := newReader(true)
	answers := 0
	r.each = func() { answers++ }
	const done = `{"type":"response.completed","response":{"model":"gpt-5-codex","usage":{"input_tokens":50,"input_tokens_details":{"cached_tokens":20},"output_tokens":6}}}`
	for range 3 {
		r.write([]byte(`{"type":"response.output_text.delta","delta":"x"}` + done))
	}
	if u := r.usage(0, false); answers != 3 || u != (Usage{"gpt-5-codex", 90, 18, 60, 0, 0}) {
		t.Errorf("%d answers, %+v", answers, u)
	}
	r.write([]byte(`{"type":"response.output_text.delta","delta":"x"}`))
	if u := r.usage(0, false); u.Output != 19 {
		t.Errorf("an answer under way: %+v", u)
	}
}

func TestScannerIsBounded(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("{", 1<<20), strings.Repeat(`{"usage":[`, 1<<18), `{"` + strings.Repeat("a", 1<<20), `{"model":"` + strings.Repeat("m", 1<<20) + `"}`, `{"usage":{"input_tokens":` + strings.Repeat("9", 1<<20),
	} {
		r := newReader(false)
		r.write([]byte(text))
		if u := r.usage(0, false); u != (Usage{}) || cap(r.scan.text) > 4*maxWord {
			t.Errorf("%.20q: %+v, %d bytes kept", text, u, cap(r.scan.text))
		}
	}
}

// FuzzUsage compares with encoding/json, for what that takes, and wants the same of any division into pieces.
func FuzzUsage(f *testing.F) {
	for _, a := range answers {
		f.Add([]byte(a.text), 7)
	}
	f.Add([]byte(`{"usage":{"input_tokens":1,"input_tokens":2}}{"model":"a"}`), 3)
	f.Fuzz(func(t *testing.T, text []byte, at int) {
		whole := newReader(false)
		whole.write(text)
		if at >= 0 && at <= len(text) {
			split := newReader(false)
			split.write(text[:at])
			split.write(text[at:])
			if a, b := whole.usage(9, true), split.usage(9, true); a != b && split.scan.lines == whole.scan.lines {
				t.Fatalf("%+v, split at %d %+v", a, at, b)
			}
		}
		u := whole.usage(0, false)
		if min(u.Input, u.Output, u.CacheRead, u.CacheWrite) < 0 {
			t.Fatalf("%+v", u)
		}
		var plain struct {
			Usage struct {
				Input  json.Number `json:"input_tokens"`
				Output json.Number `json:"output_tokens"`
			} `json:"usage"`
		}
		if len(text) > 0 && text[0] == '{' && json.Unmarshal(text, &plain) == nil && plainKeys(text) {
			if want := count([]byte(plain.Usage.Output)); u.Output != want {
				t.Fatalf("output %d, encoding/json has %d", u.Output, want)
			}
		}
	})
}

// plainKeys leaves out what encoding/json reads otherwise: keys in another case, twice, escaped, or another spelling of
// the output's.
func plainKeys(text []byte) bool {
	s := string(text)
	low := strings.ToLower(s)
	return !strings.Contains(s, `\`) && low == s && strings.Count(s, "output_tokens") <= 1 && strings.Count(s, `"usage"`) <= 1 &&
		!strings.ContainsAny(s, "ſK") && !strings.Contains(s, "completion_tokens") && !strings.Contains(s, `"message"`) && !strings.Contains(s, `"response"`) && !strings.Contains(s, `"output_tokens":"`) && !strings.Contains(s, `"output_tokens" `) && !strings.Contains(s, "output_tokens\":\t") && !strings.Contains(s, "output_tokens\":\n") && !strings.Contains(s, "output_tokens\":\r") && !strings.Contains(s, `"output_tokens": `)
}

func BenchmarkMeter(b *testing.B) {
	text := []byte(strings.Repeat("event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"some words of an answer\"}}\n\n", 1000))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		r := newReader(false)
		r.write(text)
	}
}
