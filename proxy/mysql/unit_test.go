package mysql

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/superserve/superserve/proxy/login/logintest"
	"github.com/superserve/superserve/proxy/proxytest"
)

// TestProve has vectors that PyMySQL 1.0.2 computed: pymysql._auth.
func TestProve(t *testing.T) {
	scramble := []byte("abcdefghijklmnopqrst")
	for plugin, want := range map[string]string{pluginNative: "8817c50fa779daef010ee7577825b0847df9842e", pluginSHA2: "c76e2898612a4cf042c77fa8c4702c4c64c0c2c557c53c4d75595aaa6abae809"} {
		if got := hex.EncodeToString(prove(plugin, []byte("secret"), scramble)); got != want {
			t.Errorf("%s = %s, want %s", plugin, got, want)
		}
	}
}

func testGreeting(plugin string) *greeting {
	return &greeting{
		version: []byte("8.4.0\x00"), thread: []byte{1, 0, 0, 0}, scramble: []byte("abcdefghijklmnopqrst"),
		capabilities: cap41 | capSecure | capPlugin | capWithDB | capLengthCoded | capAttributes, charset: 45,
		status: []byte{2, 0}, reserved: make([]byte, 10), plugin: plugin,
	}
}

func TestGreetingGoesRound(t *testing.T) {
	want := testGreeting(pluginSHA2)
	got, err := parseGreeting(want.encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(greeting{})); diff != "" {
		t.Error(diff)
	}
	if mine := got.local(); bytes.Equal(mine.scramble, want.scramble) || mine.plugin != pluginSHA2 || mine.capabilities&capTLS == 0 {
		t.Errorf("local = %+v", mine)
	}
}

// TestSign has the standard library as its oracle, for a password that has the length of
// its seeds.
func TestSign(t *testing.T) {
	seed, scramble := []byte("0123456789abcdef0123456789abcdef"), []byte("a scramble of the server's, long.")
	if got, want := sign(seed, scramble), ed25519.Sign(ed25519.NewKeyFromSeed(seed), scramble); !bytes.Equal(got, want) {
		t.Errorf("sign = %x, want %x", got, want)
	}
}

// TestCachingSHA2 logs PyMySQL in at a server of MySQL's kind, of which Debian has
// none: it knows the real password, quickly or after having asked for it whole.
func TestCachingSHA2(t *testing.T) {
	logintest.Need(t, "/usr/bin/python3")
	for _, full := range []bool{false, true} {
		l := proxytest.Listen(t)
		_, _, authority := logintest.Certificate(t, t.TempDir(), -1, logintest.Host)
		served := make(chan error, 1)
		go func() { served <- playMySQL(l, authorityTLS{authority}, full) }()
		rig := logintest.New(t, logintest.Config{Wire: newWire, Roots: logintest.Roots(authority),
			Upstream: proxytestAddr(l), Secrets: []logintest.Secret{secret("MYSQL_URL", "alice", logintest.Password)}})
		script := `
import os, pymysql
c = pymysql.connect(host="127.0.0.1", port=int(os.environ["PORT"]), user="alice", password=os.environ["PASSWORD"],
    ssl={"ca": os.environ["CAFILE"], "check_hostname": False}, autocommit=None) # asks nothing more
print(c.server_version)
`
		env := []string{"PORT=" + portOf(rig), "PASSWORD=" + rig.Password(t, "MYSQL_URL"), "CAFILE=" + rig.CAFile}
		out, err := logintest.Run(t, env, "", "/usr/bin/python3", "-c", script)
		if failed := <-served; failed != nil || err != nil || strings.TrimSpace(out) != "8.4.0" {
			t.Errorf("full %v: server %v, client %v: %s", full, failed, err, out)
		}
	}
}

// playMySQL is one login at a server.
func playMySQL(l net.Listener, a authorityTLS, full bool) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	g := testGreeting(pluginSHA2)
	g.capabilities |= capTLS
	side := &packets{side: conn}
	if err := side.write(g.encode()); err != nil {
		return err
	}
	if _, err := side.read(); err != nil { // SSLRequest
		return err
	}
	if side.side, err = a.server(conn); err != nil {
		return err
	}
	body, err := side.read()
	if err != nil {
		return err
	}
	r, err := parseResponse(body)
	if err != nil {
		return err
	}
	if !bytes.Equal(r.proof, prove(pluginSHA2, []byte(logintest.Password), g.scramble)) || r.user != "alice" {
		return errors.New("the proof is wrong")
	}
	if full {
		if err := side.write([]byte{packetMore, sha2Full}); err != nil {
			return err
		}
		if body, err = side.read(); err != nil || string(body) != logintest.Password+"\x00" {
			return errors.Join(errors.New("the password is not in clear"), err)
		}
	} else if err := side.write([]byte{packetMore, sha2Fast}); err != nil {
		return err
	}
	return side.write([]byte{packetOK, 0, 0, 2, 0, 0, 0})
}

func TestFramer(t *testing.T) {
	packet := func(seq byte, body string) string {
		return string([]byte{byte(len(body)), byte(len(body) >> 8), byte(len(body) >> 16), seq}) + body
	}
	tests := []struct {
		name, in string
		bad      bool
	}{
		{"lets queries pass", packet(0, "\x03SELECT 1") + packet(0, "\x0e"), false},
		{"lets parts of a file pass", packet(2, "\x11\x12") + packet(3, "") + packet(0, "\x03x"), false},
		{"refuses a second login", packet(0, "\x0e") + packet(0, "\x11alice"), true},
		{"sees no login in a query", packet(0, "\x03"+packet(0, "\x11")), false},
	}
	for _, tt := range tests {
		t.Run("it "+tt.name, func(t *testing.T) {
			for size := 1; size <= len(tt.in); size++ {
				var f framer
				var err error
				for at := 0; at < len(tt.in) && err == nil; at += size {
					err = f.look([]byte(tt.in[at:min(at+size, len(tt.in))]))
				}
				if (err != nil) != tt.bad {
					t.Fatalf("in pieces of %d: %v", size, err)
				}
			}
		})
	}
}

func FuzzGreeting(f *testing.F) {
	f.Add(testGreeting(pluginNative).encode())
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) == 0 {
			return
		}
		g, err := parseGreeting(body)
		if err != nil {
			return
		}
		if again, err := parseGreeting(g.local().encode()); err != nil || !bytes.Equal(again.version, g.version) {
			t.Fatalf("%q is written as %q: %v", body, g.local().encode(), err)
		}
	})
}

func FuzzResponse(f *testing.F) {
	r := &response{head: make([]byte, 28), database: "d", attributes: []byte{4, 1, 'a', 1, 'b'}}
	all := uint32(cap41 | capSecure | capPlugin | capWithDB | capLengthCoded | capAttributes)
	f.Add(r.encode(all, "alice", pluginNative, make([]byte, 20)))
	f.Add(r.encode(cap41|capSecure, "a", "", nil))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseResponse(body)
		if err != nil {
			return
		}
		again, err := parseResponse(r.encode(r.capabilities, r.user, r.plugin, make([]byte, 20)))
		if err != nil || again.user != r.user || again.database != r.database || !bytes.Equal(again.attributes, r.attributes) {
			t.Fatalf("%q: %+v, %v", body, again, err)
		}
	})
}

// FuzzPackets: whatever comes in whatever pieces, no packet is longer than maxPacket, and the look for a second login
// says the same however the bytes are cut.
func FuzzPackets(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x0e"), byte(3))
	f.Add([]byte("\x02\x00\x00\x00\x11a\xff\xff\xff\x01"), byte(1))
	f.Fuzz(func(t *testing.T, in []byte, size byte) {
		client, server := net.Pipe()
		defer server.Close()
		go func() {
			client.Write(in)
			client.Close()
		}()
		p := &packets{side: server}
		for {
			body, err := p.read()
			if len(body) > maxPacket {
				t.Fatalf("a packet of %d bytes", len(body))
			}
			if err != nil {
				break
			}
		}
		var whole, cut framer
		wantErr := whole.look(in)
		var err error
		for rest := in; len(rest) > 0 && err == nil; {
			n := min(len(rest), int(size)+1)
			err = cut.look(rest[:n])
			rest = rest[n:]
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("whole: %v, in pieces of %d: %v", wantErr, int(size)+1, err)
		}
	})
}
