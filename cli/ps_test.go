package cli

import (
	"testing"

	"github.com/superserve/superserve/runtime/sandbox"
)

func TestPickRun(t *testing.T) {
	records := []sandbox.Record{
		{ID: "aa11", Agent: "one", Running: true}, {ID: "ab22", Agent: "one"}, {ID: "bc33", Agent: "two"}, {ID: "bd44", Agent: "two"},
		{ID: "cc55", Agent: "bd"}, {ID: "two", Agent: "three"},
	}
	for _, tt := range []struct{ name, word, want string }{
		{"takes an id", "ab22", "ab22"},
		{"takes the beginning of an id", "cc", "cc55"},
		{"refuses the beginning of two", "a", ""},
		{"prefers an agent's run that goes on", "one", "aa11"},
		{"takes an agent's last run", "three", "two"},
		{"prefers an id to an agent", "two", "two"},
		{"prefers an agent to the beginning of an id", "bd", "cc55"},
		{"takes the run of all that goes on for no word", "", "aa11"},
		{"refuses what nothing has", "zz", ""},
	} {
		t.Run("it "+tt.name, func(t *testing.T) {
			got, err := pickRun(records, tt.word)
			if got.ID != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("%q: got %q, %v; want %q", tt.word, got.ID, err, tt.want)
			}
		})
	}
}
