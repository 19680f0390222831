package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// usageError is a command line that does not fit its command; the hint names the command's help.
type usageError struct {
	cmd  string
	text string
}

// Error says what does not fit.
func (e usageError) Error() string { return e.text }

// exactly wants one argument for each of the names, and says which is missing or too much.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usageError{cmd.CommandPath(), fmt.Sprintf("missing %s", strings.Join(names[len(args):], " and "))}
		}
		if len(args) > len(names) {
			return usageError{cmd.CommandPath(), fmt.Sprintf("unexpected argument '%s'", escapeLine(args[len(names)]))}
		}
		return nil
	}
}

// atLeast wants one argument for each of the names, and takes more.
func atLeast(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return exactly(names...)(cmd, args)
		}
		return nil
	}
}

// atMostOne takes no argument or one.
func atMostOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return exactly(name)(cmd, args)
		}
		return nil
	}
}
