package cli

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/secretd/api"
)

// maxLogin is the largest login file that is read, in bytes.
const maxLogin = 256 << 10

// subscription is the login file of a coding agent.
type subscription struct {
	tool   string // as in `init --for`, and the file's format in superserve.yaml
	env    string // names the folder of the file, "" for none
	folder string // below the home
	file   string
	stem   string // of the secrets' names
	read   func(text []byte) (loginTokens, error)
}

// loginTokens are what is secret in a login file, and what its format must be told.
type loginTokens struct {
	Refresh, Access, ID string
	Expires             time.Time
	Account             string
}

// logins are the tools whose login files are known.
func logins() []subscription {
	return []subscription{
		{"claude-code", "CLAUDE_CONFIG_DIR", ".claude", ".credentials.json", "CLAUDE_CODE_", readClaudeCode},
		// Not CODEX_ACCESS_TOKEN: Codex takes that variable for a login of another kind.
		{"codex", "CODEX_HOME", ".codex", "auth.json", "CODEX_LOGIN_", readCodex},
		{"gemini-cli", "", ".gemini", "oauth_creds.json", "GEMINI_CLI_", readGemini},
	}
}

const secretsImportLong = `Take the login of a coding agent's subscription into an agent's secrets, from the file that the tool keeps in
your home. The agent then finds that file with placeholders in it (files: in superserve.yaml); when its tool
refreshes the login, the new tokens are stored here and only placeholders come back.

Your own tool and the agent share the login from then on. Where the provider gives a new refresh token at each
refresh (Anthropic, OpenAI), whichever refreshes first logs the other one out: log in again for yourself.`

func (sh *shell) secretsImportCommand() *cobra.Command {
	var tool, file string
	cmd := &cobra.Command{
		Use:   "import AGENT --for TOOL",
		Short: "Take over the login of a coding agent's subscription",
		Long:  secretsImportLong,
		Example: `  superserve secrets import my-agent --for claude-code
  superserve secrets import my-agent --for codex --file ./auth.json`,
		Args: exactly("AGENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return sh.importLogin(cmd.Context(), args[0], tool, file)
		},
	}
	cmd.Flags().StringVar(&tool, "for", "", "the `TOOL`: "+strings.Join(loginTools(), ", "))
	cmd.Flags().StringVar(&file, "file", "", "its login `FILE`, where it is not in your home")
	return cmd
}

func loginTools() []string {
	var names []string
	for _, l := range logins() {
		names = append(names, l.tool)
	}
	return names
}

func (sh *shell) importLogin(ctx context.Context, agent, tool, file string) error {
	if err := api.CheckAgent(agent); err != nil {
		return err
	}
	l, err := loginOf(tool)
	if err != nil {
		return err
	}
	t, err := l.load(file)
	if err != nil {
		return err
	}
	settings := l.settings(t)
	defer wipe(settings)
	c, err := sh.secretd(ctx)
	if err != nil {
		return err
	}
	if _, err := c.Set(ctx, agent, settings); err != nil {
		return err
	}
	var names []string
	for _, s := range settings {
		names = append(names, s.Name)
	}
	sh.done("Took over the login of %s for agent '%s': %s", l.tool, agent, joinWords(names))
	format := "format: " + l.tool
	if t.Account != "" {
		format += ", user: " + t.Account
	}
	fmt.Fprintf(sh.out, "\nIn superserve.yaml:\n  secrets: [%s]\n  files:\n    ~/%s/%s: {%s}\n", joinWords(names), l.folder, l.file, format)
	return nil
}

func loginOf(tool string) (subscription, error) {
	if tool == "" {
		return subscription{}, usageError{"superserve secrets import", "missing --for"}
	}
	for _, l := range logins() {
		if l.tool == tool {
			return l, nil
		}
	}
	return subscription{}, unknownError{kind: "tool", name: tool, known: loginTools(), list: "superserve secrets import --help"}
}

// load reads the login file, the caller's own unless one is named.
func (l subscription) load(file string) (loginTokens, error) {
	if file == "" {
		who := whoCalls()
		folder, named := who.lookup(l.env)
		if !named || folder == "" {
			folder = filepath.Join(who.home, l.folder)
		}
		file = filepath.Join(folder, l.file)
	}
	text, err := readLogin(file)
	if err != nil {
		return loginTokens{}, err
	}
	defer clear(text)
	t, err := l.read(text)
	if err != nil {
		return loginTokens{}, fmt.Errorf("read login %q: %w", file, err)
	}
	return t, nil
}

// readLogin reads a file of the caller's. As root it must not be led elsewhere by a link.
func readLogin(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read login %q: there is no such file: log in with the tool first, or give --file", file)
	}
	if err != nil {
		return nil, fmt.Errorf("read login: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read login %q: not a plain file", file)
	}
	return io.ReadAll(io.LimitReader(f, maxLogin))
}

// settings are the secrets of a login; their bindings are the presets of their names.
func (l subscription) settings(t loginTokens) []api.Setting {
	var all []api.Setting
	for _, s := range []api.Setting{
		{Name: l.stem + "REFRESH_TOKEN", Value: []byte(t.Refresh)},
		{Name: l.stem + "ACCESS_TOKEN", Value: []byte(t.Access), Expires: t.Expires},
		{Name: l.stem + "ID_TOKEN", Value: []byte(t.ID)},
	} {
		if len(s.Value) > 0 {
			all = append(all, s)
		}
	}
	return all
}

var (
	errNoLogin    = errors.New("it holds no login of a subscription")
	errLoginShape = errors.New("it is no JSON of the shape that the tool writes")
)

func (t loginTokens) check(err error) (loginTokens, error) {
	switch {
	case err != nil:
		return loginTokens{}, errLoginShape // its text would quote the file
	case t.Refresh == "" || t.Access == "":
		return loginTokens{}, errNoLogin
	}
	return t, nil
}

func readClaudeCode(text []byte) (loginTokens, error) {
	var f struct {
		Login struct {
			Access  string  `json:"accessToken"`
			Refresh string  `json:"refreshToken"`
			Expires float64 `json:"expiresAt"` // milliseconds
		} `json:"claudeAiOauth"`
	}
	err := json.Unmarshal(text, &f)
	return loginTokens{Refresh: f.Login.Refresh, Access: f.Login.Access, Expires: time.UnixMilli(int64(f.Login.Expires)).UTC()}.check(err)
}

func readCodex(text []byte) (loginTokens, error) {
	var f struct {
		Tokens struct {
			ID      string `json:"id_token"`
			Access  string `json:"access_token"`
			Refresh string `json:"refresh_token"`
			Account string `json:"account_id"`
		} `json:"tokens"`
	}
	err := json.Unmarshal(text, &f)
	t := loginTokens{Refresh: f.Tokens.Refresh, Access: f.Tokens.Access, ID: f.Tokens.ID, Account: plainWord(f.Tokens.Account)}
	t.Expires = expiry(t.Access)
	return t.check(err)
}

func readGemini(text []byte) (loginTokens, error) {
	var f struct {
		Access  string  `json:"access_token"`
		Refresh string  `json:"refresh_token"`
		Expires float64 `json:"expiry_date"` // milliseconds
	}
	err := json.Unmarshal(text, &f)
	return loginTokens{Refresh: f.Refresh, Access: f.Access, Expires: time.UnixMilli(int64(f.Expires)).UTC()}.check(err)
}

// plainWord is s when it can stand in YAML as it is, else "".
func plainWord(s string) string {
	if strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_") != "" {
		return ""
	}
	return s
}

// expiry is the exp of a signed token (RFC 7519 §4.1.4), zero when it has none.
func expiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err = cmp.Or(err, json.Unmarshal(text, &claims)); err != nil || claims.Exp <= 0 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Exp), 0).UTC()
}
