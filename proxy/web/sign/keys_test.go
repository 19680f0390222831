package sign

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

const issuedXML = `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><AssumedRoleUser><Arn>a</Arn></AssumedRoleUser>
<Credentials>
 <AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>a/b&#43;c</SecretAccessKey>
 <SessionToken>
  Fwo//==
 </SessionToken><Expiration>2026-11-23T12:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`

func TestFindIssued(t *testing.T) {
	for name, tt := range map[string]struct {
		body string
		want string
		err  error
	}{
		"XML":                {issuedXML, "[ASIAEXAMPLE a/b+c Fwo//==]", nil},
		"two in XML":         {"<r>" + issuedXML + "<AccessKey><SecretAccessKey>s</SecretAccessKey><Status>Active</Status><AccessKeyId>AKIA</AccessKeyId></AccessKey></r>", "[ASIAEXAMPLE a/b+c Fwo//==][AKIA s ]", nil},
		"JSON":               {`{"r":{"Credentials":{"SecretAccessKey":"a\/b","AccessKeyId" : "ASIA","SessionToken":"t","Expiration":1}},"x":[{"AccessKeyId":"no"},1,"SecretAccessKey"]}`, "[ASIA a/b t]", nil},
		"a list of ids":      {"<m><AccessKeyId>A</AccessKeyId></m>", "", nil},
		"a secret alone":     {"<m><SecretAccessKey>A</SecretAccessKey></m>", "", ErrKeys},
		"an end that misses": {issuedXML[:len(issuedXML)-3], "", ErrKeys},
		"two secrets":        {"<m><AccessKeyId>A</AccessKeyId><SecretAccessKey>A</SecretAccessKey><SecretAccessKey>B</SecretAccessKey></m>", "", ErrKeys},
		"elements within":    {"<m><AccessKeyId>A</AccessKeyId><SecretAccessKey>A<b/></SecretAccessKey></m>", "", ErrKeys},
		"no text in JSON":    {`{"AccessKeyId":"A","SecretAccessKey":["x"]}`, "", ErrKeys},
		"only in a text":     {"<m><Message>the SecretAccessKey is wrong</Message></m>", "", nil},
		"no JSON":            {`{"SecretAccessKey":`, "", ErrKeys},
	} {
		all, err := FindIssued([]byte(tt.body))
		got := ""
		for _, i := range all {
			got += fmt.Sprintf("[%s %s %s]", i.ID.Value, i.Secret.Value, i.Token.Value)
		}
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: got %q, %v; want %q, %v", name, got, err, tt.want, tt.err)
		}
		for _, i := range all {
			if bytes.ContainsAny([]byte(tt.body)[i.Secret.Start:i.Secret.End], "<>\"") {
				t.Errorf("%s: the secret stands at %q", name, tt.body[i.Secret.Start:i.Secret.End])
			}
		}
	}
}

func FuzzFindIssued(f *testing.F) {
	f.Add([]byte(issuedXML))
	f.Add([]byte(`{"Credentials":{"SecretAccessKey":"a\/b","AccessKeyId" : "ASIA","SessionToken":"t","Expiration":1}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		all, err := FindIssued(body)
		if err != nil && len(all) > 0 {
			t.Fatal("keys and an error")
		}
		for _, i := range all {
			for _, text := range []Text{i.ID, i.Secret} {
				if text.Start >= text.End || text.End > len(body) || len(text.Value) == 0 {
					t.Fatalf("%+v in %q", text, body)
				}
			}
		}
	})
}
