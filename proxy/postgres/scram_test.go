package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/superserve/superserve/proxy/login"
)

// TestScramVector is the exchange of RFC 7677 §3, whose user has a name.
func TestScramVector(t *testing.T) {
	c := newScramClient([]byte("pencil"))
	c.nonce, c.bare = "rOprNGfwEbeRWgbNEkqO", "n=user,r=rOprNGfwEbeRWgbNEkqO"
	final, err := c.final([]byte("r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"))
	want := "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
	if err != nil || string(final) != want {
		t.Fatalf("final = %q, %v, want %q", final, err, want)
	}
	if !c.verify([]byte("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")) || c.verify([]byte("v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")) {
		t.Error("the server's signature is judged wrongly")
	}
	if !bytes.Equal(c.password, make([]byte, 6)) {
		t.Error("the password is still there")
	}
}

// play is both our ends against each other.
func play(t testing.TB, password string, channel []byte, change func(initial, final []byte) ([]byte, []byte)) (*verifier, error) {
	t.Helper()
	s := New(login.Config{})
	v := s.verifier(&login.Key{Name: "URL", Password: "placeholder"})
	c := newScramClient([]byte(password))
	if channel != nil {
		c.bind(channel)
	}
	initial, _ := change(c.first(), nil)
	x, err := parseInitial(initial, channel)
	if err != nil {
		return nil, err
	}
	x.first = []byte("r=" + x.nonce + newNonce() + ",s=" + b64.EncodeToString(s.salt[:]) + ",i=4096")
	final, err := c.final(x.first)
	if err != nil {
		return nil, err
	}
	_, final = change(nil, final)
	auth, shown, err := x.parseFinal(final)
	if err != nil {
		return nil, err
	}
	if !v.proves(auth, shown) {
		return nil, errScram
	}
	if p := (&proof{by: v, auth: auth}); !c.verify(p.signature()) {
		t.Error("the client does not believe us")
	}
	return v, nil
}

func TestScramServer(t *testing.T) {
	same := func(a, b []byte) ([]byte, []byte) { return a, b }
	sum := sha256.Sum256([]byte("certificate"))
	replace := func(from, to string) func(a, b []byte) ([]byte, []byte) {
		return func(a, b []byte) ([]byte, []byte) {
			a, b = bytes.Replace(a, []byte(from), []byte(to), 1), bytes.Replace(b, []byte(from), []byte(to), 1)
			if _, rest, ok := bytes.Cut(a, []byte{0}); ok && len(rest) >= 4 {
				binary.BigEndian.PutUint32(rest, uint32(len(rest)-4))
			}
			return a, b
		}
	}
	tests := []struct {
		name, password string
		channel        []byte
		change         func(a, b []byte) ([]byte, []byte)
		ok             bool
	}{
		{"takes the placeholder", "placeholder", nil, same, true},
		{"takes the placeholder over a channel", "placeholder", sum[:], same, true},
		{"refuses another password", "placeholdes", nil, same, false},
		{"refuses a name to act for", "placeholder", nil, replace("n,,", "n,a=x,"), false},
		{"refuses a client that saw no offer", "placeholder", sum[:], replace("p=tls-server-end-point,,", "y,,"), false},
		{"refuses another kind of channel", "placeholder", sum[:], replace("tls-server-end-point", "tls-unique"), false},
		{"refuses another nonce", "placeholder", nil, replace("biws,r=", "biws,r=x"), false},
		{"refuses another binding", "placeholder", sum[:], replace("c=c", "c=d"), false},
		{"refuses an unknown mechanism", "placeholder", nil, replace("SHA-256", "SHA-1"), false},
		{"refuses a short proof", "placeholder", nil, func(a, b []byte) ([]byte, []byte) { return a, b[:len(b)/2] }, false},
	}
	for _, tt := range tests {
		t.Run("it "+tt.name, func(t *testing.T) {
			if v, err := play(t, tt.password, tt.channel, tt.change); (err == nil) != tt.ok || (v != nil) != tt.ok {
				t.Errorf("ended in %v, want success %v", err, tt.ok)
			}
		})
	}
}

func TestPrepare(t *testing.T) {
	for in, want := range map[string]string{
		"plain ": "plain ", "I\u00adX": "IX", "user\u00a0x": "user x", "\u00aa": "a", "\u2168": "IX", "\xff\xfe": "\xff\xfe",
	} {
		if got := string(prepare([]byte(in))); got != want {
			t.Errorf("prepare(%q) = %q, want %q", in, got, want)
		}
	}
}

func packet(text string) []byte {
	return append([]byte{0, 3, 0, 0}, strings.ReplaceAll(text, "|", "\x00")...)
}

func FuzzStartup(f *testing.F) {
	f.Add(packet("user|a|database|b||"))
	f.Add(packet("user|a|_pq_.x|1||"))
	f.Add(packet("user|a|user|b||"))
	f.Add([]byte{4, 0xd2, 0x16, 0x2e, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Fuzz(func(t *testing.T, p []byte) {
		s, err := parseStartup(p)
		if err != nil || s.cancel != nil {
			return
		}
		out := s.appendFor(nil, "")
		if int(binary.BigEndian.Uint32(out)) != len(out) {
			t.Fatal("the length is wrong")
		}
		again, err := parseStartup(out[4:])
		if err != nil || again.user() != s.user() || again.version != version3 {
			t.Fatalf("%q is written as %q: %v", p, out, err)
		}
	})
}

func FuzzScramServer(f *testing.F) {
	f.Add([]byte("SCRAM-SHA-256\x00\x00\x00\x00\x09n,,n=,r=abc"), []byte("c=biws,r=abc,p=AAAA"), true)
	f.Add([]byte("SCRAM-SHA-256-PLUS\x00\x00\x00\x00\x1fp=tls-server-end-point,,n=,r=abc"), []byte("c=,r=,p="), true)
	f.Fuzz(func(t *testing.T, initial, final []byte, bound bool) {
		var channel []byte
		if bound {
			channel = []byte("channel")
		}
		x, err := parseInitial(initial, channel)
		if err != nil {
			return
		}
		x.first = []byte("r=" + x.nonce + "ours,s=AA==,i=4096")
		if _, shown, err := x.parseFinal(final); err == nil && len(shown) != sha256.Size {
			t.Fatal("a proof of another length")
		}
	})
}

func FuzzScramClient(f *testing.F) {
	f.Add([]byte("abc,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=2"), []byte("v=AAAA"))
	f.Add([]byte(",s=,i=0"), []byte("e=other-error"))
	f.Fuzz(func(t *testing.T, first, final []byte) {
		if i := bytes.LastIndex(first, []byte("i=")); i >= 0 && len(first)-i > 5 {
			return // the fuzzer's time is not for iterations
		}
		c := newScramClient([]byte("password"))
		if _, err := c.final(append([]byte("r="+c.nonce), first...)); err == nil && c.verify(final) {
			t.Fatal("a server that does not know the password proved that it does")
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add(appendAuth(nil, authOK, nil))
	f.Add([]byte{'R', 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, p []byte) {
		kind, body, err := readMessage(bytes.NewReader(p), 100)
		if err == nil && (len(body) > 100 || !bytes.HasPrefix(p, appendMessage(nil, kind, body))) {
			t.Fatalf("%q is read as %c %q", p, kind, body)
		}
	})
}
