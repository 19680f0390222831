package mint

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

// replaced is the answer with each token as "<kind>".
func replaced(t testing.TB, contentType, body string) (string, error) {
	t.Helper()
	a, err := Parse(contentType, []byte(body))
	if err != nil {
		return "", err
	}
	for i := range a.Tokens {
		a.Tokens[i].Replacement = []byte{"ARI"[a.Tokens[i].Kind]}
	}
	return string(a.Append(nil)), nil
}

func TestReplaces(t *testing.T) {
	const form = "application/x-www-form-urlencoded; charset=utf-8"
	for _, tt := range []struct{ does, contentType, body, want string }{
		{"the tokens of RFC 6749", "application/json", `{"access_token":"a","token_type":"Bearer","expires_in":3600,"refresh_token":"r","id_token":"i"}`,
			`{"access_token":"A","token_type":"Bearer","expires_in":3600,"refresh_token":"R","id_token":"I"}`},
		{"escaped names and values", "", "{ \"access\\u005ftoken\" :\n\"a\\/b\\\"\" }", "{ \"access\\u005ftoken\" :\n\"A\" }"},
		{"names in other spellings", "", `{"accessToken":"a","bot-access-token":"b","token":"c"}`, `{"accessToken":"A","bot-access-token":"A","token":"A"}`},
		{"tokens in objects and arrays", "", `{"ok":true,"authed_user":{"access_token":"x"},"all":[{"token":"y"},["token","z"]]}`,
			`{"ok":true,"authed_user":{"access_token":"A"},"all":[{"token":"A"},["token","z"]]}`},
		{"a name that stands twice", "", `{"access_token":"a","access_token":"b"}`, `{"access_token":"A","access_token":"A"}`},
		{"nothing that is no string", "", `{"access_token":null,"refresh_token":5,"id_token":{},"token":""}`, `{"access_token":null,"refresh_token":5,"id_token":{},"token":""}`},
		{"nothing of an error", "", `{"error":"invalid_grant"}`, `{"error":"invalid_grant"}`},
		{"a form's fields", form, "access_token=a%2Bb&scope=repo%2Cuser&token_type=bearer&refresh%5Ftoken=r", "access_token=A&scope=repo%2Cuser&token_type=bearer&refresh%5Ftoken=R"},
		{"a form without a type", "text/plain", "access_token=a&expires=5", "access_token=A&expires=5"},
		{"nothing of nothing", "text/html", " \n", " \n"},
	} {
		t.Run("it replaces "+tt.does, func(t *testing.T) {
			if got, err := replaced(t, tt.contentType, tt.body); err != nil || got != tt.want {
				t.Errorf("got %q, %v\nwant %q", got, err, tt.want)
			}
		})
	}
}

func TestLifetime(t *testing.T) {
	for body, want := range map[string]time.Duration{
		`{"access_token":"a","expires_in":3599,"x":1}`: 3599 * time.Second, `{"expires_in" : 10}`: 10 * time.Second,
		`{"expires_in":"60"}`: 0, `{"expires_in":-5}`: 0, `{"expires_in":1e9}`: time.Second, `{}`: 0, "access_token=a&expires_in=28800": 8 * time.Hour,
	} {
		if a, err := Parse("", []byte(body)); err != nil || a.Lifetime != want {
			t.Errorf("%s: got %v, %v; want %v", body, a.Lifetime, err, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	for name, in := range map[string][2]string{
		"a page":               {"text/html", "<p>access_token=a</p>"},
		"a page by any name":   {"", "<p>access_token=a</p>"},
		"cut JSON":             {"application/json", `{"access_token":"a"`},
		"a script":             {"application/javascript", `cb({"access_token":"a"})`},
		"text before JSON":     {"application/json", `)]}'{"access_token":"a"}`},
		"an odd type":          {"application/;", "access_token=a"},
		"a word":               {"text/plain", "OK"},
		"bad escapes":          {"text/plain", "access_token=%zz"},
		"more than it reads":   {"application/json", `{"access_token":"` + strings.Repeat("a", MaxAnswer) + `"}`},
		"more tokens than any": {"application/json", "[" + strings.Repeat(`{"token":"a"},`, maxTokens+1) + "1]"},
	} {
		if _, err := Parse(in[0], []byte(in[1])); !errors.Is(err, ErrAnswer) {
			t.Errorf("%s: got %v; want ErrAnswer", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"access_token":"a","b":[{"token":"x"}]}`, `{"a\u0022":{"id_token":"\ud800\\"}}`, "access_token=a&b=c", `"token"`, `[]`} {
		f.Add("", []byte(s))
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		a, err := Parse(contentType, body)
		if err != nil {
			return
		}
		if same := a.Append(nil); !bytes.Equal(same, body) {
			t.Fatalf("%q becomes %q though nothing is replaced", body, same)
		}
		const token = "REPLACEMENT"
		for i := range a.Tokens {
			a.Tokens[i].Replacement = []byte(token)
		}
		out := a.Append(nil)
		again, err := Parse(contentType, out)
		if err != nil || len(again.Tokens) != len(a.Tokens) {
			t.Fatalf("%q became %q, which reads otherwise: %v", body, out, err)
		}
		for i := range again.Tokens {
			if string(again.Tokens[i].Value) != token {
				t.Fatalf("%q became %q, where a token stayed", body, out)
			}
		}
		wantNone(t, out, token)
	})
}

// wantNone asks encoding/json whether a token stayed in an object.
func wantNone(t *testing.T, out []byte, token string) {
	var v any
	if json.Unmarshal(out, &v) != nil {
		return
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, value := range v {
				if s, ok := value.(string); ok && s != "" && s != token {
					if _, is := kindOf(name); is {
						t.Fatalf("%q: %q stayed", out, name)
					}
				}
				walk(value)
			}
		case []any:
			for _, value := range v {
				walk(value)
			}
		}
	}
	walk(v)
}
