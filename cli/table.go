package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// table prints rows under a head of column names, aligned, two blanks between. Cells are escaped.
func (sh *shell) table(head []string, rows [][]string) error {
	w := tabwriter.NewWriter(sh.out, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = strings.ReplaceAll(escapeLine(cell), "\t", `\t`)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

// json prints v as indented JSON; encoding/json escapes what a terminal must not see.
func (sh *shell) json(v any) error {
	enc := json.NewEncoder(sh.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// when prints a time as a person reads it, "-" for none.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// size prints a number of bytes in the largest unit of 1024 that leaves at least 1.
func size(n int64) string {
	units := []string{"B", "KB", "MB", "GB", "TB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 || f >= 10 {
		return fmt.Sprintf("%.0f %s", f, units[i])
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
