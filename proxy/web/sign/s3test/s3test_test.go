package s3test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestServersVerify shows that the servers tell good signatures from bad ones.
func TestServersVerify(t *testing.T) {
	s := Start(t)
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.Roots},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			to := s.Addr
			if strings.HasPrefix(addr, STS) {
				to = s.STSAddr
			}
			return new(net.Dialer).DialContext(ctx, network, to.String())
		},
	}}
	defer client.CloseIdleConnections()
	wrong := s.Session
	wrong.Token = strings.Replace(wrong.Token, "Real", "real", 1)
	for name, tt := range map[string]struct {
		keys         Keys
		service, url string
		want         string
	}{
		"S3, the account":     {s.Account, "s3", "https://" + BucketHost + "/?list-type=2", "<Name>bucket</Name>"},
		"S3, a session":       {s.Session, "s3", "https://" + Host + "/bucket?list-type=2", "<Name>bucket</Name>"},
		"S3, a wrong token":   {wrong, "s3", "https://" + Host + "/bucket?list-type=2", "InvalidToken"},
		"S3, a wrong key":     {Keys{ID: s.Account.ID, Secret: "no"}, "s3", "https://" + Host + "/bucket?list-type=2", "SignatureDoesNotMatch"},
		"STS, the account":    {s.Account, "sts", "https://" + STS + "/?Action=GetCallerIdentity&Version=2011-06-15", ":root</Arn>"},
		"STS, a session":      {s.Session, "sts", "https://" + STS + "/?Action=GetCallerIdentity&Version=2011-06-15", "assumed-role/agent/test"},
		"STS, a wrong secret": {Keys{ID: s.Account.ID, Secret: "no"}, "sts", "https://" + STS + "/?Action=GetCallerIdentity&Version=2011-06-15", "SignatureDoesNotMatch"},
	} {
		req, err := http.NewRequest("GET", tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		Sign(req, tt.keys, tt.service, time.Now(), nil)
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if !strings.Contains(string(body), tt.want) {
			t.Errorf("%s: got %d %s; want %s", name, res.StatusCode, body, tt.want)
		}
	}
}
