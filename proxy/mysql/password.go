package mysql

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"fmt"
	"hash"

	"filippo.io/edwards25519"

	"github.com/superserve/superserve/proxy/audit"
	"github.com/superserve/superserve/proxy/login"
	"github.com/superserve/superserve/proxy/swap"
	"github.com/superserve/superserve/secretd/locked"
)

// The ways to log in that are known here.
const (
	pluginNative = "mysql_native_password"
	pluginSHA2   = "caching_sha2_password"
	pluginClear  = "mysql_clear_password"
	pluginEd     = "client_ed25519" // MariaDB's ed25519
)

// edScrambleLen is the length of pluginEd's scramble, in bytes.
const edScrambleLen = 32

// What follows packetMore in caching_sha2_password.
const (
	sha2Fast = 0x03
	sha2Full = 0x04
)

// prove answers a scramble; nil for a plugin that does not work so. An empty password
// is proved by nothing at all.
func prove(plugin string, password, scramble []byte) []byte {
	switch plugin {
	case pluginNative: // SHA1(p) ^ SHA1(scramble, SHA1(SHA1(p)))
		one := sum(sha1.New(), password)
		return mix(one, sum(sha1.New(), scramble, sum(sha1.New(), one)))
	case pluginSHA2: // SHA256(p) ^ SHA256(SHA256(SHA256(p)), scramble)
		one := sum(sha256.New(), password)
		return mix(one, sum(sha256.New(), sum(sha256.New(), one), scramble))
	case pluginEd:
		return sign(password, scramble)
	}
	return nil
}

// sign is an Ed25519 signature (RFC 8032 §5.1.6) of a scramble whose private key is a
// password of any length, for which the standard library's has no place.
// https://mariadb.com/kb/en/connection/#client_ed25519-plugin
func sign(password, scramble []byte) []byte {
	h := sum(sha512.New(), password)
	defer locked.Wipe(h)
	s, err := edwards25519.NewScalar().SetBytesWithClamping(h[:32])
	if err != nil {
		return nil // only of another length
	}
	public := new(edwards25519.Point).ScalarBaseMult(s).Bytes()
	r := uniform(sum(sha512.New(), h[32:], scramble))
	point := new(edwards25519.Point).ScalarBaseMult(r).Bytes()
	k := uniform(sum(sha512.New(), point, public, scramble))
	return append(point, k.MultiplyAdd(k, s, r).Bytes()...)
}

// uniform takes a hash of 64 bytes for a number.
func uniform(hash []byte) *edwards25519.Scalar {
	s, err := edwards25519.NewScalar().SetUniformBytes(hash)
	if err != nil {
		panic("mysql: " + err.Error()) // only of another length
	}
	return s
}

func sum(h hash.Hash, parts ...[]byte) []byte {
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func mix(a, b []byte) []byte {
	for i := range a {
		a[i] ^= b[i]
	}
	return a
}

// identify finds the placeholder that the client has proved to know. One whose
// library prefers another plugin is asked to change to ours.
func identify(ses *login.Session, down *packets, mine *greeting, r *response) (*login.Key, error) {
	proof := r.proof
	if r.plugin != mine.plugin && r.capabilities&capPlugin != 0 {
		ask := append(append([]byte{packetSwitch}, mine.plugin...), 0)
		if err := down.write(append(append(ask, mine.scramble...), 0)); err != nil {
			return nil, err
		}
		var err error
		if proof, err = down.readProof(); err != nil {
			return nil, err
		}
	}
	var found *login.Key
	for _, k := range ses.Keys() {
		same := subtle.ConstantTimeCompare(prove(mine.plugin, []byte(k.Password), mine.scramble), proof) == 1
		if same && (k.User == "" || k.User == r.user) {
			found = k
		}
	}
	if found == nil {
		return nil, ses.Foreign()
	}
	return found, nil
}

// secure puts TLS over the upstream connection, unless the key may go without and the
// client came so.
func secure(ctx context.Context, ses *login.Session, up *packets, real *greeting, r *response, key *login.Key) error {
	if ses.Clear(key) {
		return nil
	}
	if real.capabilities&capTLS == 0 {
		return login.Upstream(login.ReasonNoTLS, "the server has no TLS; the key is only sent over TLS", nil)
	}
	request := r.encode(r.capabilities&real.capabilities|capTLS, "", "", nil)[:32]
	if err := up.write(request); err != nil {
		return err
	}
	if err := ses.Secure(ctx, nil); err != nil {
		return err
	}
	up.side = ses.Upstream
	return nil
}

// authenticate logs in at the real server and returns its packet that says so.
func authenticate(ctx context.Context, ses *login.Session, up *packets, real *greeting, r *response, key *login.Key) ([]byte, error) {
	password, err := ses.Use(ctx, key)
	if err != nil {
		return nil, err
	}
	defer password.Wipe()
	if bytes.IndexByte(password.Password, 0) >= 0 || bytes.IndexByte([]byte(password.User), 0) >= 0 {
		return nil, &login.Refusal{Verdict: audit.Refused, Reason: swap.ReasonInvalid, Detail: "the value holds a zero byte"}
	}
	capabilities := r.capabilities & real.capabilities &^ capTLS
	if !ses.Clear(key) {
		capabilities |= capTLS
	}
	user := password.User
	if user == "" {
		user = r.user
	}
	l := &loginSteps{up: up, password: password.Password, clear: ses.Clear(key), plugin: real.plugin}
	first := prove(l.plugin, l.password, real.scramble)
	if first == nil { // the server will ask for what the user has
		l.plugin = pluginNative
		first = prove(l.plugin, l.password, real.scramble)
	}
	if err := up.write(r.encode(capabilities, user, l.plugin, first)); err != nil {
		return nil, err
	}
	return l.run()
}

// loginSteps follows what the real server asks for.
type loginSteps struct {
	up       *packets
	password []byte
	clear    bool // the upstream connection has no TLS
	plugin   string
}

// run ends in the server's OK; its error comes as *rejected.
func (l *loginSteps) run() ([]byte, error) {
	for range 8 { // each method takes two steps at most
		body, err := l.up.read()
		if err != nil {
			return nil, err
		}
		switch body[0] {
		case packetOK:
			return body, nil
		case packetError:
			return nil, newRejected(body)
		case packetSwitch:
			err = l.change(body[1:])
		case packetMore:
			err = l.more(body[1:])
		default:
			err = l.up.broken(errPacket)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, l.up.broken(errPacket)
}

// change answers AuthSwitchRequest: a plugin's name and its scramble.
func (l *loginSteps) change(body []byte) error {
	name, scramble, _ := bytes.Cut(body, []byte{0})
	l.plugin = string(name)
	if l.plugin == pluginClear {
		return l.sendClear()
	}
	if l.plugin != pluginEd || len(scramble) > edScrambleLen { // a zero may end it, or be a part of it
		scramble = bytes.TrimSuffix(scramble, []byte{0})
	}
	proof := prove(l.plugin, l.password, scramble)
	if proof == nil {
		return login.Upstream(login.ReasonUpstream, fmt.Sprintf("the server asks for the login %.40q, which is not known here", l.plugin), nil)
	}
	return l.up.write(proof)
}

// more is the second step of caching_sha2_password: the server knows the password, or
// wants it whole.
func (l *loginSteps) more(body []byte) error {
	switch {
	case l.plugin != pluginSHA2 || len(body) != 1:
		return l.up.broken(errPacket)
	case body[0] == sha2Full:
		return l.sendClear()
	case body[0] != sha2Fast:
		return l.up.broken(errPacket)
	}
	return nil
}

// sendClear sends the password itself, over TLS only. A server without TLS offers an
// RSA key for that, which anyone could put in its place.
func (l *loginSteps) sendClear() error {
	if l.clear {
		return login.Upstream(login.ReasonNoTLS, "the server asks for the password in clear, without TLS", nil)
	}
	body := append(append(make([]byte, 0, len(l.password)+1), l.password...), 0)
	defer locked.Wipe(body)
	return l.up.write(body)
}
