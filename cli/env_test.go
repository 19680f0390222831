package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseEnv(t *testing.T) {
	tests := []struct{ name, text, want, fault string }{
		{"reads plain pairs", "A=1\nB=x=y\n", "A=1|B=x=y", ""},
		{"skips comments and blank lines", "# c\n\n  \nA=1 # c\nB=a#b", "A=1|B=a#b", ""},
		{"takes export and blanks", "export A = 1 \r\n", "A=1", ""},
		{"keeps single quotes as they are", `A='a $B \n #x'`, `A=a $B \n #x`, ""},
		{"undoes escapes in double quotes", `A="a\n\"\\\$b\x" # c`, "A=a\n\"\\$b\\x", ""},
		{"spans lines in quotes", "K=\"-----BEGIN\nxx\n-----END\"\nB=2", "K=-----BEGIN\nxx\n-----END|B=2", ""},
		{"expands nothing", "A=$HOME`id`", "A=$HOME`id`", ""},
		{"takes an empty value", "A=\nB=", "A=|B=", ""},
		{"names the line of a fault", "A=1\n\nsk-secret\n", "", "line 3: not KEY=VALUE"},
		{"refuses a bad name", "1A=sk-secret", "", "line 1: not the name of a variable"},
		{"refuses an open quote", "A=1\nB='sk-secret", "", "line 2: no closing quote"},
		{"refuses text after a quote", "A='1'sk-secret", "", "line 1: text after"},
	}
	for _, tt := range tests {
		t.Run("it "+tt.name, func(t *testing.T) {
			pairs, err := parseEnv(tt.text)
			var got []string
			for _, p := range pairs {
				got = append(got, p.key+"="+string(p.value))
			}
			if d := cmp.Diff(tt.want, strings.Join(got, "|")); d != "" {
				t.Errorf("parseEnv(%q) -want +got\n%s", tt.text, d)
			}
			if (err == nil) != (tt.fault == "") || err != nil && !strings.HasPrefix(err.Error(), tt.fault) {
				t.Errorf("parseEnv(%q) = %v, want %q", tt.text, err, tt.fault)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error holds the value: %v", err)
			}
		})
	}
}

func FuzzParseEnv(f *testing.F) {
	f.Add("A=1\nexport B=\"x\\n\" # c\n")
	f.Add("A='\n=\n'")
	f.Fuzz(func(t *testing.T, text string) {
		parseEnv(text)
	})
}
