package files

import (
	"fmt"
	"strings"
)

// refreshEnding ends the name of a login's refresh token; its access token and ID token are called alike.
const refreshEnding = "REFRESH_TOKEN"

// stem is what the names of a login's secrets begin with.
func stem(o Options) string { return strings.TrimSuffix(o.Secret, refreshEnding) }

func isLogin(format string) bool {
	return format == "claude-code" || format == "codex" || format == "gemini-cli"
}

// claudeCode is ~/.claude/.credentials.json (Claude Code 2.1). Its scopes are those that every subscription has; what
// the client gets when it refreshes takes their place.
func claudeCode(o Options, _ []string) string {
	return fmt.Sprintf(`{"claudeAiOauth":{"accessToken":"${%[1]sACCESS_TOKEN}","refreshToken":"${%[1]sREFRESH_TOKEN}",`+
		`"expiresAt":${%[1]sACCESS_TOKEN.expires_ms},"scopes":["user:inference","user:profile","user:sessions:claude_code"],"subscriptionType":null}}`+"\n", stem(o))
}

// codex is ~/.codex/auth.json (Codex 0.169). It refreshes when the access token's own exp has passed, or else when
// last_refresh is old, which here it never is. User is the account's id.
func codex(o Options, _ []string) string {
	account := "null"
	if o.User != "" {
		account = `"` + o.User + `"`
	}
	return fmt.Sprintf(`{"OPENAI_API_KEY":null,"tokens":{"id_token":"${%[1]sID_TOKEN}","access_token":"${%[1]sACCESS_TOKEN}",`+
		`"refresh_token":"${%[1]sREFRESH_TOKEN}","account_id":%[2]s},"last_refresh":"2099-01-01T00:00:00Z"}`+"\n", stem(o), account)
}

// geminiCLI is ~/.gemini/oauth_creds.json (Gemini CLI).
func geminiCLI(o Options, _ []string) string {
	return fmt.Sprintf(`{"access_token":"${%[1]sACCESS_TOKEN}","refresh_token":"${%[1]sREFRESH_TOKEN}","token_type":"Bearer",`+
		`"expiry_date":${%[1]sACCESS_TOKEN.expires_ms},"scope":"https://www.googleapis.com/auth/cloud-platform openid"}`+"\n", stem(o))
}
