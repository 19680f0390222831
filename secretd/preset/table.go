package preset

import "strings"

// provider is one line of the table. The text forms are those of api.ParsePattern
// and api.ParseUse, separated by spaces. Prefix is what the provider's keys begin
// with, "" when they have no fixed beginning.
type provider struct {
	names  string
	hosts  string
	uses   string
	prefix string
}

// Hosts of GitHub: REST, uploads, git over https, raw files, archives, releases.
const github = "api.github.com uploads.github.com github.com raw.githubusercontent.com codeload.github.com objects.githubusercontent.com"

// providers returns the table. Facts are from the providers' API references as of
// November 2026. Where a provider takes the key in several headers, all are listed;
// the first is the one that its own SDK sends.
func providers() []provider {
	return append(append(models(), services()...), others()...)
}

// models are providers of language, speech and image models, and of search.
func models() []provider {
	return []provider{
		{"ANTHROPIC_API_KEY", "api.anthropic.com", "header:x-api-key bearer", "sk-ant-api03-"},
		{"ANTHROPIC_AUTH_TOKEN CLAUDE_CODE_OAUTH_TOKEN", "api.anthropic.com", "bearer", "sk-ant-oat01-"},
		// The logins of subscriptions: where each tool refreshes, and where it goes with what it gets.
		{"CLAUDE_CODE_REFRESH_TOKEN", "platform.claude.com console.anthropic.com", "oauth:api.anthropic.com", "sk-ant-ort01-"},
		{"CLAUDE_CODE_ACCESS_TOKEN", "api.anthropic.com platform.claude.com", "bearer", "sk-ant-oat01-"},
		{"CODEX_LOGIN_REFRESH_TOKEN", "auth.openai.com", "oauth:chatgpt.com oauth:api.openai.com", ""},
		{"CODEX_LOGIN_ACCESS_TOKEN CODEX_LOGIN_ID_TOKEN", "chatgpt.com api.openai.com auth.openai.com", "bearer", ""},
		{"GEMINI_CLI_REFRESH_TOKEN", "oauth2.googleapis.com", "oauth:*.googleapis.com", ""},
		{"GEMINI_CLI_ACCESS_TOKEN", "*.googleapis.com", "bearer", ""},
		{"OPENAI_API_KEY CODEX_API_KEY", "api.openai.com", "bearer", "sk-proj-"},
		{"OPENAI_ADMIN_KEY", "api.openai.com", "bearer", "sk-admin-"},
		{"AZURE_OPENAI_API_KEY", "*.openai.azure.com *.cognitiveservices.azure.com", "header:api-key bearer", ""},
		{"GEMINI_API_KEY GOOGLE_API_KEY GOOGLE_GENERATIVE_AI_API_KEY", "generativelanguage.googleapis.com", "header:x-goog-api-key bearer query:key", "AIza"},
		{"XAI_API_KEY", "api.x.ai", "bearer", "xai-"},
		{"PERPLEXITY_API_KEY PPLX_API_KEY", "api.perplexity.ai", "bearer", "pplx-"},
		{"OPENROUTER_API_KEY", "openrouter.ai", "bearer", "sk-or-v1-"},
		{"MISTRAL_API_KEY", "api.mistral.ai codestral.mistral.ai", "bearer", ""},
		{"COHERE_API_KEY CO_API_KEY", "api.cohere.com api.cohere.ai", "bearer", ""},
		{"GROQ_API_KEY", "api.groq.com", "bearer", "gsk_"},
		{"TOGETHER_API_KEY", "api.together.xyz api.together.ai", "bearer", ""},
		{"FIREWORKS_API_KEY", "api.fireworks.ai", "bearer", "fw_"},
		{"DEEPSEEK_API_KEY", "api.deepseek.com", "bearer header:x-api-key", "sk-"},
		{"MOONSHOT_API_KEY", "api.moonshot.ai api.moonshot.cn", "bearer", "sk-"},
		{"DASHSCOPE_API_KEY", "dashscope.aliyuncs.com dashscope-intl.aliyuncs.com", "bearer", "sk-"},
		{"ZAI_API_KEY", "api.z.ai", "bearer header:x-api-key", ""},
		{"CEREBRAS_API_KEY", "api.cerebras.ai", "bearer", "csk-"},
		{"NVIDIA_API_KEY", "integrate.api.nvidia.com", "bearer", "nvapi-"},
		{"REPLICATE_API_TOKEN", "api.replicate.com", "bearer bearer:token", "r8_"},
		{"HF_TOKEN HUGGINGFACE_API_KEY HUGGING_FACE_HUB_TOKEN HUGGINGFACEHUB_API_TOKEN", "huggingface.co router.huggingface.co api-inference.huggingface.co", "bearer basic", "hf_"},
		{"FAL_KEY", "fal.run queue.fal.run rest.fal.ai", "bearer:key", ""},
		{"STABILITY_API_KEY", "api.stability.ai", "bearer", "sk-"},
		{"VOYAGE_API_KEY", "api.voyageai.com", "bearer", "pa-"},
		{"JINA_API_KEY", "api.jina.ai r.jina.ai s.jina.ai", "bearer", "jina_"},
		{"ELEVENLABS_API_KEY ELEVEN_API_KEY", "api.elevenlabs.io", "header:xi-api-key", "sk_"},
		{"DEEPGRAM_API_KEY", "api.deepgram.com", "bearer:token", ""},
		{"ASSEMBLYAI_API_KEY", "api.assemblyai.com streaming.assemblyai.com", "header:authorization", ""},
		{"AI_GATEWAY_API_KEY", "ai-gateway.vercel.sh", "bearer header:x-api-key", "vck_"},
		{"EXA_API_KEY", "api.exa.ai", "header:x-api-key bearer", ""},
		{"FIRECRAWL_API_KEY", "api.firecrawl.dev", "bearer", "fc-"},
		{"TAVILY_API_KEY", "api.tavily.com", "bearer", "tvly-"},
		{"BRAVE_API_KEY BRAVE_SEARCH_API_KEY", "api.search.brave.com", "header:x-subscription-token", ""},
		{"SERPER_API_KEY", "google.serper.dev scrape.serper.dev", "header:x-api-key", ""},
		{"PINECONE_API_KEY", "api.pinecone.io *.pinecone.io", "header:api-key", "pcsk_"},
		{"LANGSMITH_API_KEY LANGCHAIN_API_KEY", "api.smith.langchain.com", "header:x-api-key", "lsv2_pt_"},
		{"E2B_API_KEY", "api.e2b.dev api.e2b.app", "header:x-api-key", "e2b_"},
	}
}

// services are providers of code hosting, payment, mail, clouds and work tools.
func services() []provider {
	return []provider{
		{"GITHUB_TOKEN GH_TOKEN GITHUB_PERSONAL_ACCESS_TOKEN", github, "bearer bearer:token basic", "ghp_"},
		{"GITLAB_TOKEN GITLAB_PRIVATE_TOKEN", "gitlab.com", "header:private-token bearer basic", "glpat-"},
		{"STRIPE_SECRET_KEY STRIPE_API_KEY", "api.stripe.com files.stripe.com", "bearer basic:user", "sk_live_"},
		// Slack's Web API takes a token as a parameter as well as in the header.
		{"SLACK_BOT_TOKEN SLACK_TOKEN", "slack.com files.slack.com", "bearer form:token query:token", "xoxb-"},
		{"SLACK_USER_TOKEN", "slack.com files.slack.com", "bearer form:token query:token", "xoxp-"},
		{"SLACK_APP_TOKEN", "slack.com", "bearer form:token query:token", "xapp-"},
		{"LINEAR_API_KEY", "api.linear.app", "header:authorization bearer", "lin_api_"},
		{"NOTION_API_KEY NOTION_TOKEN", "api.notion.com", "bearer", "ntn_"},
		{"ASANA_ACCESS_TOKEN ASANA_TOKEN", "app.asana.com", "bearer", ""},
		{"AIRTABLE_API_KEY AIRTABLE_TOKEN", "api.airtable.com content.airtable.com", "bearer", ""},
		{"ATLASSIAN_API_TOKEN JIRA_API_TOKEN CONFLUENCE_API_TOKEN", "*.atlassian.net", "basic:password bearer", "ATATT3xFfGF0"},
		{"HUBSPOT_ACCESS_TOKEN", "api.hubapi.com", "bearer", "pat-na1-"},
		{"SHOPIFY_ACCESS_TOKEN", "*.myshopify.com", "header:x-shopify-access-token", "shpat_"},
		{"VERCEL_TOKEN VERCEL_API_TOKEN", "api.vercel.com", "bearer", "vcp_"},
		{"NETLIFY_AUTH_TOKEN", "api.netlify.com", "bearer", "nfp_"},
		{"CLOUDFLARE_API_TOKEN CF_API_TOKEN", "api.cloudflare.com", "bearer", ""},
		{"CLOUDFLARE_API_KEY", "api.cloudflare.com", "header:x-auth-key", ""},
		{"DIGITALOCEAN_TOKEN DIGITALOCEAN_ACCESS_TOKEN", "api.digitalocean.com", "bearer", "dop_v1_"},
		{"HEROKU_API_KEY", "api.heroku.com", "bearer", "HRKU-"},
		{"RENDER_API_KEY", "api.render.com", "bearer", "rnd_"},
		{"RAILWAY_API_TOKEN", "backboard.railway.com backboard.railway.app", "bearer", ""},
		{"NEON_API_KEY", "console.neon.tech", "bearer", "napi_"},
		{"SUPABASE_ACCESS_TOKEN", "api.supabase.com", "bearer", "sbp_"},
		{"SENTRY_AUTH_TOKEN", "sentry.io *.sentry.io", "bearer", "sntrys_"},
		{"DD_API_KEY DATADOG_API_KEY", "api.datadoghq.com api.datadoghq.eu", "header:dd-api-key", ""},
		{"DD_APP_KEY DATADOG_APP_KEY", "api.datadoghq.com api.datadoghq.eu", "header:dd-application-key", ""},
		{"CIRCLECI_TOKEN", "circleci.com", "header:circle-token basic:user", ""},
		{"BUILDKITE_API_TOKEN", "api.buildkite.com", "bearer", "bkua_"},
		{"RESEND_API_KEY", "api.resend.com", "bearer", "re_"},
		{"SENDGRID_API_KEY", "api.sendgrid.com", "bearer", "SG."},
		{"NPM_TOKEN NODE_AUTH_TOKEN", "registry.npmjs.org", "bearer", "npm_"},
		{"POSTMARK_SERVER_TOKEN", "api.postmarkapp.com", "header:x-postmark-server-token", ""},
		{"MAILGUN_API_KEY", "api.mailgun.net api.eu.mailgun.net", "basic:password", ""},
		{"TWILIO_AUTH_TOKEN TWILIO_API_SECRET", "*.twilio.com", "basic:password", ""},
		{"DISCORD_BOT_TOKEN DISCORD_TOKEN", "discord.com", "bearer:bot", ""},
		{"ALGOLIA_API_KEY", "*.algolia.net *.algolianet.com", "header:x-algolia-api-key", ""},
	}
}

// others carry the key somewhere else than in a header of its own. Their bindings
// stand here so that a run binds the right host; which of the uses the proxy can do
// is the proxy's to say.
func others() []provider {
	return []provider{
		{"GOOGLE_CLIENT_SECRET", "oauth2.googleapis.com", "oauth:*.googleapis.com", "GOCSPX-"},
		{"GOOGLE_REFRESH_TOKEN", "oauth2.googleapis.com", "oauth:*.googleapis.com", ""},
		{"GCP_SERVICE_ACCOUNT_KEY", "*.googleapis.com", "gcp", ""},
		{"AWS_BEARER_TOKEN_BEDROCK", bedrock(), "bearer", "ABSK"},
		{"AWS_ACCESS_KEY_ID", "*.amazonaws.com", "sigv4", "AKIA"},
		{"AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN", "*.amazonaws.com", "sigv4", ""},
		{"TELEGRAM_BOT_TOKEN", "api.telegram.org", "path", ""},
		{"SERPAPI_API_KEY", "serpapi.com", "query:api_key", ""},
		{"OPENWEATHER_API_KEY", "api.openweathermap.org", "query:appid", ""},
	}
}

// bedrock returns the hosts of Amazon Bedrock, which has one for each region. A wildcard
// would let a key go to any customer's API at Amazon.
func bedrock() string {
	var hosts []string
	for _, region := range strings.Fields("us-east-1 us-east-2 us-west-1 us-west-2 us-gov-east-1 us-gov-west-1 ca-central-1 sa-east-1 " +
		"eu-central-1 eu-central-2 eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-2 eu-west-3 me-central-1 " +
		"ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2 ap-southeast-1 ap-southeast-2") {
		hosts = append(hosts, "bedrock-runtime."+region+".amazonaws.com", "bedrock."+region+".amazonaws.com")
	}
	return strings.Join(hosts, " ")
}

// prefixes are beginnings of keys that are known besides those of the table.
func prefixes() []string {
	return []string{
		"github_pat_", "gho_", "ghu_", "ghs_", "ghr_", "sk_test_", "rk_live_", "rk_test_", "sk-svcacct-", "sk-ant-admin01-",
		"ASIA", "xoxe-", "glptt-", "gldt-", "secret_", "sntryu_", "tvly-dev-", "lsv2_sk_", "sk-", "sk_", "AQ.",
	}
}
