package redact

import (
	"fmt"
	"strings"
	"testing"
)

func TestIncluding(t *testing.T) {
	var c Cache
	lasting := []Pair{pair("lasting-value-01", "mARKeR01a")}
	first := []Pair{{Secret: secret("first-token-0001"), Placeholder: "mARKeR01b", Passing: true}}
	early := c.With(nil, lasting).With(first)
	if early.Including(first) != early || early.Including(nil) != early {
		t.Error("a Set that has all was replaced")
	}
	for i := range maxPassing + 1 {
		c.With(nil, []Pair{{Secret: secret(fmt.Sprintf("token-%010d", i)), Placeholder: fmt.Sprintf("mARKeR%d", i), Passing: true}})
	}
	const text = "a lasting-value-01 first-token-0001lasting-value-01 token-0000000007 b"
	own := c.Latest().Including(first)
	for cut := range len(text) {
		out := string(trusting(own, []byte(text[:cut]), []byte(text[cut:])))
		if strings.Contains(out, "value") || strings.Contains(out, "token-0") || len(out) != len(text) {
			t.Fatalf("cut at %d: got %q", cut, out)
		}
	}
	if out := string(own.Value([]byte(text))); strings.Contains(out, "value") || strings.Contains(out, "token-0") {
		t.Errorf("a value: got %q", out)
	}
	var none *Set
	if out := string(run(none.Including(first), []byte("first-token-0001"))); strings.Contains(out, "token") {
		t.Errorf("of no Set: got %q", out)
	}
}
