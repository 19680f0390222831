package preset

import (
	"slices"
	"strings"
	"testing"

	"github.com/superserve/superserve/secretd/api"
)

func TestTable(t *testing.T) {
	names := Names()
	if dup := slices.Compact(slices.Clone(names)); len(dup) != len(names) {
		t.Error("a name stands in the table twice")
	}
	header := 0
	for _, name := range names {
		if err := api.CheckName(name); err != nil {
			t.Error(err)
		}
		b, ok := For(name)
		if !ok || !b.Bound() || len(b.Uses) == 0 || b.Check() != nil || b.Plaintext || b.AllowOwn {
			t.Errorf("%s: binding %+v", name, b)
		}
		for _, h := range b.Hosts {
			if h.Port != 0 {
				t.Errorf("%s: %s has a port", name, h)
			}
		}
		switch b.Uses[0].Kind {
		case api.UseBearer, api.UseHeader, api.UseBasic:
			header++
		}
		if p := Prefix(name); p != "" && !slices.Contains(Prefixes(), p) {
			t.Errorf("%s: prefix %q is not listed", name, p)
		}
	}
	if len(models())+len(services()) < 30 || header < 30 {
		t.Errorf("%d providers by header; want at least 30", header)
	}
}

func TestFor(t *testing.T) {
	for _, tt := range []struct {
		name, host string
		use        string
	}{
		{"ANTHROPIC_API_KEY", "api.anthropic.com", "header:x-api-key"},
		{"ANTHROPIC_API_KEY", "api.anthropic.com", "bearer"},
		{"CLAUDE_CODE_OAUTH_TOKEN", "api.anthropic.com", "bearer"},
		{"CODEX_API_KEY", "api.openai.com", "bearer"},
		{"GOOGLE_API_KEY", "generativelanguage.googleapis.com", "header:x-goog-api-key"},
		{"GITHUB_TOKEN", "github.com", "basic"},
		{"GH_TOKEN", "api.github.com", "bearer:token"},
		{"SLACK_BOT_TOKEN", "slack.com", "form:token"},
		{"SLACK_USER_TOKEN", "files.slack.com", "query:token"},
		{"TELEGRAM_BOT_TOKEN", "api.telegram.org", "path"},
		{"NPM_TOKEN", "registry.npmjs.org", "bearer"},
		{"GITLAB_TOKEN", "gitlab.com", "header:private-token"},
		{"AWS_BEARER_TOKEN_BEDROCK", "bedrock-runtime.eu-west-1.amazonaws.com", "bearer"},
		{"AWS_SESSION_TOKEN", "sts.eu-west-1.amazonaws.com", "sigv4"},
		{"STRIPE_SECRET_KEY", "files.stripe.com", "basic:user"},
		{"LINEAR_API_KEY", "api.linear.app", "header:authorization"},
		{"TWILIO_AUTH_TOKEN", "api.twilio.com", "basic:password"},
		{"ELEVENLABS_API_KEY", "api.elevenlabs.io", "header:xi-api-key"},
		{"PINECONE_API_KEY", "index-abc.svc.us-east-1.pinecone.io", "header:api-key"},
		{"BRAVE_API_KEY", "api.search.brave.com", "header:x-subscription-token"},
	} {
		b, ok := For(tt.name)
		use := must(api.ParseUse(tt.use))
		hit := func(p api.Pattern) bool { return p.Match(api.Host(tt.host), 443) }
		if !ok || !slices.ContainsFunc(b.Hosts, hit) || !slices.Contains(b.Uses, use) {
			t.Errorf("%s: %+v; want %s by %s", tt.name, b, tt.host, tt.use)
		}
	}
	if _, ok := For("SOMETHING_ELSE"); ok {
		t.Error("an unknown name has a preset")
	}
	if _, ok := For(""); ok {
		t.Error("no name has a preset")
	}
}

func TestPrefixOf(t *testing.T) {
	for value, want := range map[string]string{
		"sk-ant-api03-abc": "sk-ant-api03-", "sk-ant-oat01-x": "sk-ant-oat01-", "sk-proj-x": "sk-proj-", "sk-x": "sk-",
		"sk_test_x": "sk_test_", "github_pat_x": "github_pat_", "AKIAX": "AKIA", "AKIA": "", "plain": "", "": "",
	} {
		if got := PrefixOf([]byte(value)); got != want {
			t.Errorf("PrefixOf(%q) = %q; want %q", value, got, want)
		}
	}
}

func TestForValue(t *testing.T) {
	for value, want := range map[string]string{
		"postgres://u:p@db.x.com/app":               "db.x.com:5432 postgres",
		"postgresql+asyncpg://u:p@db.x.com:6432/a":  "db.x.com:6432 postgres",
		"mysql://u:p@203.0.113.7/app":               "203.0.113.7:3306 mysql",
		"rediss://:p@cache.x.com:6380":              "cache.x.com:6380 redis",
		"https://hooks.slack.com/services/T0/B0/xx": "hooks.slack.com:443 path",
		"redis://:p@[2001:db8::1]:6379/0":           "[2001:db8::1]:6379 redis",
		"sk-ant-api03-x":                            "",
		"ftp://u:p@x.com":                           "",
		"postgres:///local":                         "",
		"not a url://":                              "",
	} {
		b, ok := ForValue([]byte(value))
		got := ""
		if ok {
			got = strings.Join([]string{b.Hosts[0].String(), b.Uses[0].String()}, " ")
		}
		if got != want {
			t.Errorf("ForValue(%q) = %q; want %q", value, got, want)
		}
	}
}
