package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/secretd/api"
)

const secretsSetLong = `Set one or more secrets of an agent. All are checked before any is stored; the others of the agent stay.

  KEY=VALUE   the value, split at the first =
  KEY=@FILE   the contents of a file, less one line end at its end
  KEY=-       the same of standard input
  KEY         asks on the terminal, without echo

What stands on a command line can be read by others on this machine while it runs, and stays in a
shell's history: the last three forms, and --env-file, do not show the value.`

// setFlags are the flags of `secrets set`.
type setFlags struct {
	bindFlags
	envFile    string
	allowShort bool
}

func (sh *shell) secretsSetCommand() *cobra.Command {
	var f setFlags
	cmd := &cobra.Command{
		Use:   "set AGENT KEY=VALUE...",
		Short: "Set secrets",
		Long:  secretsSetLong,
		Args:  atLeast("AGENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return sh.setSecrets(cmd.Context(), args[0], args[1:], f)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&f.envFile, "env-file", "", "take every KEY=VALUE line of `FILE`")
	cmd.Flags().BoolVar(&f.allowShort, "allow-short", false, "take values of fewer than 8 bytes, which answers cannot be searched for")
	return cmd
}

func (sh *shell) setSecrets(ctx context.Context, agent string, args []string, f setFlags) error {
	if err := api.CheckAgent(agent); err != nil {
		return err
	}
	settings, err := sh.readSettings(ctx, args, f)
	if err != nil {
		return err
	}
	defer wipe(settings)
	c, err := sh.secretd(ctx)
	if err != nil {
		return err
	}
	all, err := c.Set(ctx, agent, settings)
	if err != nil {
		return err
	}
	sh.done("Set %d secret(s) for agent '%s'", len(settings), agent)
	fmt.Fprintf(sh.out, "Current secrets: %s\n", joinWords(all))
	names := make([]string, 0, len(settings))
	for _, s := range settings {
		names = append(names, s.Name)
	}
	return sh.adviseUnbound(ctx, agent, names)
}

// wipe zeroes the values once they are with secretd. Copies that the runtime made of an argument are
// beyond reach; the process ends at once.
func wipe(settings []api.Setting) {
	for _, s := range settings {
		clear(s.Value)
	}
}

// readSettings turns the arguments and the file into settings, or says what is wrong with the first
// that is.
func (sh *shell) readSettings(ctx context.Context, args []string, f setFlags) ([]api.Setting, error) {
	binding, err := f.binding()
	if err != nil {
		return nil, err
	}
	pairs, err := sh.readPairs(ctx, args)
	if err != nil {
		return nil, err
	}
	if f.envFile != "" {
		more, err := await(ctx, func() ([]pair, error) { return readEnvFile(f.envFile) })
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, more...)
	}
	if len(pairs) == 0 {
		return nil, usageError{"superserve secrets set", "missing KEY=VALUE"}
	}
	seen := map[string]bool{}
	settings := make([]api.Setting, 0, len(pairs))
	for _, p := range pairs {
		if seen[p.key] {
			return nil, fmt.Errorf("%s is given twice", p.key)
		}
		seen[p.key] = true
		if err := checkValue(p, f.allowShort); err != nil {
			return nil, err
		}
		settings = append(settings, api.Setting{Name: p.key, Value: p.value, Binding: binding, AllowShort: f.allowShort})
	}
	return settings, nil
}

// errShort means that a value is too short to be searched for in answers.
var errShort = errors.New("shorter than 8 bytes")

func checkValue(p pair, allowShort bool) error {
	const short = 8
	switch {
	case len(p.value) == 0:
		return fmt.Errorf("the value of %s is empty", p.key)
	case len(p.value) > api.MaxValue:
		return fmt.Errorf("the value of %s is longer than %d KiB", p.key, api.MaxValue>>10)
	case bytes.IndexByte(p.value, 0) >= 0:
		return fmt.Errorf("the value of %s holds a NUL byte", p.key)
	case len(p.value) < short && !allowShort:
		return fmt.Errorf("the value of %s is %w, so it cannot be found in answers to be hidden there", p.key, errShort)
	}
	return nil
}

// readPairs reads the arguments. Bare words are judged first: one that is not to be asked for is most
// likely half of `KEY VALUE`, and the error must then name the key and not the value.
func (sh *shell) readPairs(ctx context.Context, args []string) ([]pair, error) {
	for _, arg := range args {
		if !strings.Contains(arg, "=") && !sh.mayAsk(args) {
			return nil, formatError(arg)
		}
	}
	stdin := 0
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		if key == "" {
			return nil, fmt.Errorf("Empty key in '%s'", arg)
		}
		if err := api.CheckName(key); err != nil {
			return nil, err
		}
		if value == "-" {
			stdin++
		}
	}
	if stdin > 1 {
		return nil, errors.New("standard input has one value: give KEY=- once")
	}
	pairs := make([]pair, 0, len(args))
	for _, arg := range args {
		p, err := sh.readPair(ctx, arg)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

// formatError has the words of the product page.
type formatError string

// Error has them.
func (e formatError) Error() string {
	return fmt.Sprintf("Invalid format '%s'. Use KEY=VALUE", string(e))
}

// mayAsk reports whether bare words are names to ask values for: on a terminal, and all of them in the
// capitals of an environment variable, which a value hardly is.
func (sh *shell) mayAsk(args []string) bool {
	if !isTerminal(sh.in) {
		return false
	}
	for _, arg := range args {
		if !strings.Contains(arg, "=") && (api.CheckName(arg) != nil || strings.ToUpper(arg) != arg) {
			return false
		}
	}
	return true
}

func (sh *shell) readPair(ctx context.Context, arg string) (pair, error) {
	key, text, given := strings.Cut(arg, "=")
	var value []byte
	var err error
	switch {
	case !given:
		value, err = sh.askSecret(ctx, key)
	case text == "-":
		value, err = await(ctx, func() ([]byte, error) { return readValue(sh.in, key) })
	case strings.HasPrefix(text, "@"):
		value, err = await(ctx, func() ([]byte, error) { return readValueFile(text[1:], key) })
	default:
		value = []byte(text)
	}
	return pair{key, value}, err
}

func readValueFile(name, key string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	defer f.Close()
	return readValue(f, key)
}

// readValue reads one value, less the line end that an editor or echo put behind it.
func readValue(r io.Reader, key string) ([]byte, error) {
	value, err := io.ReadAll(io.LimitReader(r, api.MaxValue+3))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return trimLineEnd(value), nil
}

func trimLineEnd(b []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
}

func readEnvFile(name string) ([]pair, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read --env-file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxEnvFile+1))
	if err != nil {
		return nil, fmt.Errorf("read --env-file: %w", err)
	}
	if len(text) > maxEnvFile {
		return nil, fmt.Errorf("%s is larger than %d KiB", name, maxEnvFile>>10)
	}
	pairs, err := parseEnv(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return pairs, nil
}
