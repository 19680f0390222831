package swap

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/proxy/redact"
	"github.com/superserve/superserve/secretd/api"
)

const (
	gemini   = "AIza7aRkEr99geminigeminigeminigeminigemini"
	second   = "ssv_7aRkEr99secondsecondsecondsecondsecond"
	telegram = "ssv_7aRkEr99telegramtelegramtelegramtelegram"
	bot      = "5551234567:7aRkEr99botbotbotbotbotbotbotbotbot"
	webhook  = "https://hooks.slack.com/7aRkEr99webhookwebhookwebhookwebhook"
	session  = "ssv_7aRkEr99sessionsessionsessionsession"
	client   = "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ient"
)

func placeEntries(t testing.TB) []api.Entry {
	bind := func(name, placeholder, host string, u ...string) api.Entry {
		return api.Entry{Name: name, Placeholder: placeholder, Binding: api.Binding{Hosts: patterns(t, host), Uses: uses(t, u...)}}
	}
	own := bind("OWN", open, "own.com", "query:key")
	own.Binding.AllowOwn = true
	return []api.Entry{
		bind("GEMINI_API_KEY", gemini, "api.gemini.com", "header:x-goog-api-key", "query:key"),
		bind("SECOND", second, "api.gemini.com", "query:sig", "form:sig"),
		bind("TELEGRAM", telegram, "api.telegram.org", "path"),
		bind("BOT", bot, "bot.telegram.org", "path"),
		bind("HOOK", webhook, "hooks.slack.com", "path"),
		bind("SESSION", session, "www.site.com", "cookie:sid"),
		bind("CLIENT", client, "auth.site.com", "form:client_secret", "json:client_secret", "json:auth.token", "bearer"),
		bind("GONE", gone, "auth.site.com", "form:other", "cookie:other", "query:other"),
		own,
		{Name: "LOOSE", Placeholder: loose},
	}
}

func placeSource() *values {
	return &values{
		of: map[string]string{
			gemini: "AIza-REAL+1", second: "sec=ond&2", telegram: "123:REAL/x", open: "own-REAL", bot: "77:REAL-bot",
			webhook: "https://hooks.slack.com/services/T0/B0/REAL%2F?a=b", session: "s3ss-REAL", client: "GOCSPX-REAL\"\n",
		},
		errs: map[string]error{gone: api.ErrRevoked},
	}
}

// sentTarget judges a target, and returns the target as it would be sent, or
// a reason.
func sentTarget(s *Swapper, host, uri string) string {
	plan, refusal := s.JudgeRequest(context.Background(), target(host), Request{Target: []byte(uri)})
	switch {
	case refusal != nil:
		return refusal.Reason
	case plan.Target():
		return string(plan.AppendTarget(nil))
	}
	return uri
}

func TestTargets(t *testing.T) {
	token := "/" + strings.TrimPrefix(webhook, "https://hooks.slack.com/")
	for _, tt := range []struct{ does, host, in, want string }{
		{"swaps a parameter", "api.gemini.com", "/v1?alt=sse&key=" + gemini, "/v1?alt=sse&key=AIza-REAL%2B1"},
		{"swaps two secrets", "api.gemini.com", "/?sig=" + second + "&x&key=" + gemini + "&y=1", "/?sig=sec%3Dond%262&x&key=AIza-REAL%2B1&y=1"},
		{"swaps an encoded parameter", "api.gemini.com", "/?k%65y=%41Iza" + gemini[4:], "/?k%65y=AIza-REAL%2B1"},
		{"leaves a parameter that is not bound", "api.gemini.com", "/?q=" + gemini + "&key=", "/?q=" + gemini + "&key="},
		{"leaves a path that is not bound", "api.gemini.com", "/" + gemini, "/" + gemini},
		{"leaves a host that is not bound", "evil.com", "/" + telegram + "?key=" + gemini, "/" + telegram + "?key=" + gemini},
		{"leaves a parameter without a value", "api.gemini.com", "/?key", "/?key"},
		{"refuses two of a name", "api.gemini.com", "/?key=" + gemini + "&key=" + gemini, ReasonDuplicate},
		{"refuses an own key", "api.gemini.com", "/?key=AIzaOwn", ReasonForeign},
		{"lets an own key pass where that is allowed", "own.com", "/?key=mine", "/?key=mine"},
		{"refuses another secret's placeholder", "api.gemini.com", "/?key=" + telegram, ReasonMismatch},
		{"refuses a secret of the host in another's place", "api.gemini.com", "/?sig=" + gemini, ReasonPlace},
		{"refuses an unbound secret", "api.gemini.com", "/?key=" + loose, ReasonUnbound},
		{"refuses a forged placeholder", "api.gemini.com", "/?key=" + forged, ReasonUnknown},
		{"refuses text around it", "api.gemini.com", "/?key=a" + gemini, ReasonPlace},
		{"changes nothing when it is revoked", "auth.site.com", "/?other=" + gone, ReasonRevoked},
		{"swaps a path", "api.telegram.org", "/bot" + telegram + "/getMe?q=" + telegram, "/bot123:REAL%2Fx/getMe?q=" + telegram},
		{"swaps an encoded path", "api.telegram.org", "/a%20b/bot%73sv%5f" + telegram[4:] + "/getMe", "/a%20b/bot123:REAL%2Fx/getMe"},
		{"swaps a bot's own shape", "bot.telegram.org", "/bot" + bot + "/getMe", "/bot77:REAL-bot/getMe"},
		{"swaps it encoded", "bot.telegram.org", "/file/bot" + strings.Replace(bot, ":", "%3A", 1) + "/x", "/file/bot77:REAL-bot/x"},
		{"refuses two of a path", "api.telegram.org", "/" + telegram + "/" + telegram, ReasonDuplicate},
		{"leaves another secret in a path", "api.telegram.org", "/bot" + gemini, "/bot" + gemini},
		{"swaps a webhook", "hooks.slack.com", token, "/services/T0/B0/REAL%2F?a=b"},
		{"joins a webhook's query", "hooks.slack.com", token + "?c=d", "/services/T0/B0/REAL%2F?a=b&c=d"},
		{"takes what is behind a webhook's path", "hooks.slack.com", token + "/slack", "/services/T0/B0/REAL%2F/slack?a=b"},
		{"leaves a webhook's path behind another", "hooks.slack.com", "/x" + token, "/x" + token},
	} {
		t.Run("it "+tt.does, func(t *testing.T) {
			if got := sentTarget(New(placeEntries(t), placeSource()), tt.host, tt.in); got != tt.want {
				t.Errorf("got %q; want %q", got, tt.want)
			}
		})
	}
}

func TestCookies(t *testing.T) {
	for _, tt := range []struct{ does, in, want string }{
		{"swaps a cookie", "Cookie: a=b; sid=" + session + "; c=d", "Cookie: a=b; sid=s3ss-REAL; c=d"},
		{"swaps one in quotes", `cookie: sid="` + session + `"`, `cookie: sid="s3ss-REAL"`},
		{"swaps one in percent", "cookie: sid=%73" + session[1:], "cookie: sid=s3ss-REAL"},
		{"leaves one that is not bound", "cookie: x=" + session + "; sidx=" + session, "cookie: x=" + session + "; sidx=" + session},
		{"refuses two", "cookie: sid=" + session + ";sid=" + session, ReasonDuplicate},
		{"refuses an own one", "cookie: sid=mine", ReasonForeign},
	} {
		t.Run("it "+tt.does, func(t *testing.T) {
			got := outcome(New(placeEntries(t), placeSource()), target("www.site.com"), fieldsOf(tt.in))
			if got[0] != tt.want {
				t.Errorf("got %q; want %q", got[0], tt.want)
			}
		})
	}
	v := placeSource()
	v.of[session] = "real;Path=/"
	if got := outcome(New(placeEntries(t), v), target("www.site.com"), fieldsOf("cookie: sid="+session)); got[0] != ReasonInvalid {
		t.Errorf("a value with a semicolon: got %q", got[0])
	}
}

// sentBody judges a content, and returns it as it would be sent, or a reason.
func sentBody(s *Swapper, host, media, body string) string {
	fields := []Field{{[]byte("Content-Type"), []byte(media)}}
	t := target(host)
	if !s.WantsBody(&t, fields) {
		return "not wanted"
	}
	plan, refusal := s.JudgeRequest(context.Background(), t, Request{Fields: fields, Body: []byte(body)})
	switch {
	case refusal != nil:
		return refusal.Reason
	case plan.Body():
		return string(plan.AppendBody(nil))
	}
	return body
}

func form(fields ...string) string {
	var b strings.Builder
	for i := 0; i < len(fields); i += 2 {
		b.WriteString("--XX\r\nContent-Disposition: form-data; name=" + fields[i] + "\r\n\r\n" + fields[i+1] + "\r\n")
	}
	return b.String() + "--XX--\r\n"
}

func TestBodies(t *testing.T) {
	const (
		urlForm = "application/x-www-form-urlencoded"
		js      = "application/json; charset=utf-8"
		multi   = "multipart/form-data; boundary=XX"
	)
	for _, tt := range []struct{ does, media, in, want string }{
		{"swaps a form field", urlForm, "a=1&client_secret=" + client + "&b=2", "a=1&client_secret=GOCSPX-REAL%22%0A&b=2"},
		{"leaves another form field", urlForm, "text=" + client, "text=" + client},
		{"refuses an own form field", urlForm, "client_secret=mine", ReasonForeign},
		{"refuses two form fields", urlForm, "client_secret=" + client + "&client_secret=x", ReasonForeign},
		{"refuses the whole form when one secret is revoked", urlForm, "client_secret=" + client + "&other=" + gone, ReasonRevoked},
		{"swaps a member", js, `{"a":[1,{}],"client_secret" : "` + client + `","b":null}`, `{"a":[1,{}],"client_secret" : "GOCSPX-REAL\"\n","b":null}`},
		{"swaps an escaped member", js, `{"client\u005fsecret":"\u0047` + client[1:] + `"}`, `{"client\u005fsecret":"GOCSPX-REAL\"\n"}`},
		{"swaps a member of a member", js, `{"auth":{"x":1,"token":"` + client + `"}}`, `{"auth":{"x":1,"token":"GOCSPX-REAL\"\n"}}`},
		{"leaves a prompt", js, `{"messages":[{"client_secret":"` + client + `"}],"x":{"client_secret":"` + client + `"}}`, ""},
		{"leaves a name with a dot", js, `{"auth.token":"` + client + `"}`, ""},
		{"leaves what is no JSON", js, `{"client_secret":"` + client + `"`, ""},
		{"leaves a text", js, `"` + client + `"`, ""},
		{"refuses two members", js, `{"client_secret":"` + client + `","client_secret":"` + client + `"}`, ReasonDuplicate},
		{"does not want another charset", "application/json; charset=utf-16", "{}", "not wanted"},
		{"does not want plain text", "text/plain", client, "not wanted"},
		{"swaps a part", multi, form(`"a"`, "1", `"client_secret"`, client), form(`"a"`, "1", `"client_secret"`, "GOCSPX-REAL\"\n")},
		{"leaves a part with a file's name", multi, form(`"client_secret"; filename="f"`, client), ""},
		{"leaves a part that is not bound", multi, form(`"text"`, client), ""},
		{"leaves an open end", multi, strings.TrimSuffix(form(`"client_secret"`, client), "--XX--\r\n"), ""},
	} {
		t.Run("it "+tt.does, func(t *testing.T) {
			want := tt.want
			if want == "" {
				want = tt.in
			}
			if got := sentBody(New(placeEntries(t), placeSource()), "auth.site.com", tt.media, tt.in); got != want {
				t.Errorf("got %q\nwant %q", got, want)
			}
		})
	}
	if got := sentBody(New(placeEntries(t), placeSource()), "api.gemini.com", js, "{}"); got != "not wanted" {
		t.Errorf("a host without a JSON binding: got %q", got)
	}
	v := placeSource()
	v.of[client] = "a--XXb"
	if got := sentBody(New(placeEntries(t), v), "auth.site.com", multi, form("client_secret", client)); got != ReasonInvalid {
		t.Errorf("a value with the boundary: got %q", got)
	}
}

func TestAuditPath(t *testing.T) {
	s := New(placeEntries(t), placeSource())
	for in, want := range map[string]string{
		"/v1/x":                      "/v1/x",
		"/bot" + telegram + "/getMe": "/bot{TELEGRAM}/getMe",
		"/bot%73" + telegram[1:]:     "/bot{TELEGRAM}",
		strings.TrimPrefix(webhook, "https://hooks.slack.com"): "/{HOOK}",
		"/" + forged: "[holds a placeholder]",
	} {
		if got := s.AuditPath(in); got != want {
			t.Errorf("AuditPath(%q): got %q; want %q", in, got, want)
		}
	}
}

func TestPlacesAreResolvedAsBound(t *testing.T) {
	v := placeSource()
	sentTarget(New(placeEntries(t), v), "api.gemini.com", "/?key="+gemini)
	want := []api.ResolveRequest{{Placeholder: gemini, Host: "api.gemini.com", Port: 443, Use: api.Use{Kind: api.UseQuery, Arg: "key"}}}
	if diff := cmp.Diff(want, v.asked); diff != "" {
		t.Error(diff)
	}
}

func FuzzTarget(f *testing.F) {
	f.Add("/v1?key=" + gemini + "&sig=" + second)
	f.Add("/bot" + telegram + "/x?%6bey=%41Iza" + gemini[4:])
	f.Add("/?&&=&key=&%zz=%")
	f.Fuzz(func(t *testing.T, uri string) {
		s := New(placeEntries(t), placeSource())
		for _, host := range []string{"api.gemini.com", "api.telegram.org", "hooks.slack.com", "evil.com"} {
			got := sentTarget(s, host, uri)
			if host == "evil.com" && got != uri {
				t.Fatalf("%q became %q", uri, got)
			}
			if strings.Count(got, "REAL") > strings.Count(uri, "REAL")+1 && !strings.Contains(uri, "7aRkEr99") && strings.Count(uri, "%") == 0 {
				t.Fatalf("%q became %q", uri, got)
			}
			s.AuditPath(uri)
		}
	})
}

func FuzzJSONBody(f *testing.F) {
	f.Add(`{"client_secret":"` + client + `","auth":{"token":"` + client + `"}}`)
	f.Add(`[{"a":"\\\""},"\u00e9",{"b":{}}]`)
	f.Add(`{"":{"":{"":{"":{"":{"":{"":{"":{"":1}}}}}}}}}`)
	f.Fuzz(func(t *testing.T, body string) {
		s := New(placeEntries(t), placeSource())
		got := sentBody(s, "auth.site.com", "application/json", body)
		if got == body || got == ReasonForeign || got == ReasonPlace || got == ReasonDuplicate || got == ReasonUnknown || got == ReasonMismatch || got == ReasonUnbound {
			return
		}
		var sent map[string]any
		if err := json.Unmarshal([]byte(got), &sent); err != nil {
			t.Fatalf("%q became %q: %v", body, got, err)
		}
		auth, _ := sent["auth"].(map[string]any)
		if sent["client_secret"] != "GOCSPX-REAL\"\n" && (auth == nil || auth["token"] != "GOCSPX-REAL\"\n") {
			t.Fatalf("%q became %q", body, got)
		}
	})
}

func FuzzForms(f *testing.F) {
	f.Add("client_secret="+client+"&a=b", false)
	f.Add(form("client_secret", client, "b", "c"), true)
	f.Fuzz(func(t *testing.T, body string, parts bool) {
		media := "application/x-www-form-urlencoded"
		if parts {
			media = "multipart/form-data; boundary=XX"
		}
		got := sentBody(New(placeEntries(t), placeSource()), "auth.site.com", media, body)
		if got == body || !strings.Contains(got, "REAL") || strings.Contains(body, "REAL") {
			return
		}
		var sent []string
		if !parts {
			v, _ := url.ParseQuery(got)
			sent = v["client_secret"]
		} else {
			r := multipart.NewReader(bytes.NewReader([]byte(got)), "XX")
			for {
				p, err := r.NextRawPart()
				if err != nil {
					break
				}
				if p.FormName() == "client_secret" {
					b, _ := io.ReadAll(p)
					sent = append(sent, string(b))
				}
			}
		}
		for _, s := range sent {
			if s == "GOCSPX-REAL\"\n" {
				return
			}
		}
		t.Fatalf("%q became %q", body, got)
	})
}

// TestWhatIsWrittenIsFound has an upstream quote a request as it came.
func TestWhatIsWrittenIsFound(t *testing.T) {
	key := "-----BEGIN\n"
	for c := byte(' '); c < 0x7f; c++ {
		key += string(c)
	}
	key += "\t\x01\x1f\x7fü€-----END\r\n"
	s := redact.New([]redact.Pair{{Secret: func() []byte { return []byte(key) }, Placeholder: "mARKeR01"}})
	for name, write := range map[string]writer{"a parameter": appendPercent, "a segment": appendSegment, "JSON": appendJSON} {
		text := write(nil, []byte(key))
		var quoted bytes.Buffer
		e := json.NewEncoder(&quoted)
		e.SetEscapeHTML(false)
		e.Encode(string(text))
		for how, p := range map[string][]byte{"itself": text, "in JSON": quoted.Bytes()} {
			if got := s.Value(p); bytes.Contains(got, []byte("GHIJ")) {
				t.Errorf("%s, %s: got %q", name, how, got)
			}
		}
	}
}
