package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func good() Deployment {
	return Deployment{Digest: strings.Repeat("0a", 32), Size: PartSize + 1, Sums: [][]byte{make([]byte, 32), make([]byte, 32)}, Files: 1, Bytes: 1, Source: "/src", Command: []string{"x"}, Secrets: []string{"A"}}
}

func TestDeploymentCheck(t *testing.T) {
	if err := good().Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Deployment){
		"a digest in capitals":    func(d *Deployment) { d.Digest = strings.ToUpper(d.Digest) },
		"a digest that is short":  func(d *Deployment) { d.Digest = d.Digest[2:] },
		"a digest that is no hex": func(d *Deployment) { d.Digest = "zz" + d.Digest[2:] },
		"nothing":                 func(d *Deployment) { d.Size, d.Sums = 0, nil },
		"a negative size":         func(d *Deployment) { d.Size = -1 },
		"too much":                func(d *Deployment) { d.Size = MaxSnapshot + 1 },
		"a sum too few":           func(d *Deployment) { d.Sums = d.Sums[1:] },
		"a sum that is short":     func(d *Deployment) { d.Sums[0] = d.Sums[0][1:] },
		"no files":                func(d *Deployment) { d.Files = 0 },
		"a long path":             func(d *Deployment) { d.Source = strings.Repeat("/", 5000) },
		"a path with a NUL":       func(d *Deployment) { d.Source = "/\x00" },
		"a long command":          func(d *Deployment) { d.Command = make([]string, 1025) },
		"a command of much text":  func(d *Deployment) { d.Command = strings.Fields(strings.Repeat(strings.Repeat("x", 4000)+" ", 20)) },
		"a secret's value":        func(d *Deployment) { d.Secrets = []string{"A=b"} },
	} {
		d := good()
		change(&d)
		if err := d.Check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v; want ErrInvalid", name, err)
		}
	}
}

// FuzzDeployment reads arbitrary announcements; what passes keeps to its parts.
func FuzzDeployment(f *testing.F) {
	text, _ := json.Marshal(good())
	f.Add(text)
	f.Add(bytes.Replace(text, []byte("524289"), []byte("9223372036854775807"), 1))
	f.Fuzz(func(t *testing.T, text []byte) {
		var d Deployment
		if json.Unmarshal(text, &d) != nil || d.Check() != nil {
			return
		}
		var all int64
		for n := range d.Parts() {
			if l := d.PartLength(n); l < 1 || l > PartSize {
				t.Fatalf("part %d of %d bytes has %d", n, d.Size, l)
			} else {
				all += int64(l)
			}
		}
		if all != d.Size || len(d.Sums) != d.Parts() {
			t.Fatalf("%d bytes in %d parts are %d", d.Size, d.Parts(), all)
		}
	})
}
