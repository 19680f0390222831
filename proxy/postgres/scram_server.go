package postgres

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"strconv"
	"unicode/utf8"

	"github.com/superserve/superserve/proxy/login"
)

// iterations is RFC 7677's least. A placeholder has 130 random bits, so more would
// protect nothing; clients may refuse fewer.
const iterations = 4096

// verifier is what a server keeps of a placeholder's password.
type verifier struct {
	key               *login.Key
	stored, serverKey []byte
}

// verifier returns the one of a key, which is computed once.
func (s *Server) verifier(k *login.Key) *verifier {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.verifiers[k]; v != nil {
		return v
	}
	secret := salted(prepare([]byte(k.Password)), s.salt[:], iterations)
	stored := sha256.Sum256(mac(secret, []byte("Client Key")))
	v := &verifier{key: k, stored: stored[:], serverKey: mac(secret, []byte("Server Key"))}
	s.verifiers[k] = v
	return v
}

// exchange is the state of one login of a client.
type exchange struct {
	mechanism string
	gs2, bare []byte
	binding   []byte // of the channel when the client bound it
	nonce     string
	first     []byte // server-first-message
}

// proof is a login that succeeded.
type proof struct {
	by   *verifier
	auth []byte
}

// signature is server-final-message.
func (p *proof) signature() []byte {
	return []byte("v=" + b64.EncodeToString(mac(p.by.serverKey, p.auth)))
}

// authenticate finds out which placeholder the client holds. Several secrets may be
// bound to one server and user: the exchange begins the same for all, and the proof
// tells them apart.
func (s *Server) authenticate(ses *login.Session, user string) (*proof, error) {
	var channel []byte
	mechanisms := scramPlain + "\x00\x00"
	if ses.Encrypted() {
		leaf, err := leafBinding(ses)
		if err != nil {
			return nil, err
		}
		channel, mechanisms = leaf, scramPlus+"\x00"+mechanisms
	}
	reply, err := ask(ses, authSASL, []byte(mechanisms))
	if err != nil {
		return nil, err
	}
	x, err := parseInitial(reply, channel)
	if err != nil {
		return nil, clientFault(err)
	}
	x.first = []byte("r=" + x.nonce + newNonce() + ",s=" + b64.EncodeToString(s.salt[:]) + ",i=" + strconv.Itoa(iterations))
	if reply, err = ask(ses, authSASLMore, x.first); err != nil {
		return nil, err
	}
	auth, shown, err := x.parseFinal(reply)
	if err != nil {
		return nil, clientFault(err)
	}
	return s.find(ses, user, auth, shown)
}

func leafBinding(ses *login.Session) ([]byte, error) {
	der, err := ses.Leaf()
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return endPoint(cert), nil
}

// find compares the proof with every verifier, so that the time says nothing.
func (s *Server) find(ses *login.Session, user string, auth, shown []byte) (*proof, error) {
	var found *verifier
	for _, k := range ses.Keys() {
		if v := s.verifier(k); v.proves(auth, shown) && (k.User == "" || k.User == user) {
			found = v
		}
	}
	if found == nil {
		return nil, ses.Foreign()
	}
	return &proof{by: found, auth: auth}, nil
}

// proves reports whether the proof was made with the verifier's password (RFC 5802
// §3).
func (v *verifier) proves(auth, shown []byte) bool {
	clientKey := mac(v.stored, auth)
	for i := range clientKey {
		clientKey[i] ^= shown[i]
	}
	stored := sha256.Sum256(clientKey)
	return hmac.Equal(stored[:], v.stored)
}

// ask sends a request for authentication and reads the answer.
func ask(ses *login.Session, kind uint32, data []byte) ([]byte, error) {
	if _, err := ses.Client.Write(appendAuth(nil, kind, data)); err != nil {
		return nil, err
	}
	got, body, err := readMessage(ses.Client, maxAuth)
	if err == nil && got != msgPassword {
		err = errScram
	}
	return body, clientFault(err)
}

// parseInitial reads SASLInitialResponse. channel is the binding of the client's TLS
// channel, nil when it has none.
func parseInitial(body, channel []byte) (*exchange, error) {
	name, rest, ok := bytes.Cut(body, []byte{0})
	if !ok || len(rest) < 4 || int64(binary.BigEndian.Uint32(rest)) != int64(len(rest)-4) {
		return nil, errScram
	}
	message := rest[4:]
	flag, after, ok := bytes.Cut(message, []byte{','})
	authzid, bare, fine := bytes.Cut(after, []byte{','})
	if !ok || !fine || len(authzid) != 0 {
		return nil, errScram
	}
	x := &exchange{mechanism: string(name), gs2: message[:len(message)-len(bare)], bare: bare}
	if err := x.checkBinding(string(flag), channel); err != nil {
		return nil, err
	}
	_, rest, err := attribute(bare, 'n') // the user's name is the startup message's
	if err != nil {
		return nil, err
	}
	nonce, _, err := attribute(rest, 'r')
	if err != nil || len(nonce) == 0 || !utf8.Valid(nonce) {
		return nil, errScram
	}
	x.nonce = string(nonce)
	return x, nil
}

var errBinding = errors.New("the channel binding is not what was offered")

// checkBinding wants flag and mechanism to agree with what was offered. A client that
// says "y" has not seen our offer: someone took it away.
func (x *exchange) checkBinding(flag string, channel []byte) error {
	switch {
	case x.mechanism == scramPlain && (flag == "n" || flag == "y" && channel == nil):
		return nil
	case x.mechanism == scramPlus && flag == "p=tls-server-end-point" && channel != nil:
		x.binding = channel
		return nil
	}
	return errBinding
}

// parseFinal reads client-final-message and returns AuthMessage and the proof, which
// has the length of the hash.
func (x *exchange) parseFinal(body []byte) (auth, shown []byte, err error) {
	at := bytes.LastIndex(body, []byte(",p="))
	if at < 0 {
		return nil, nil, errScram
	}
	without := body[:at]
	channel, rest, err := attribute(without, 'c')
	if err != nil {
		return nil, nil, err
	}
	nonce, _, err := attribute(rest, 'r')
	if err != nil {
		return nil, nil, err
	}
	want := b64.EncodeToString(append(bytes.Clone(x.gs2), x.binding...))
	ours, _, _ := bytes.Cut(x.first[2:], []byte{','})
	if string(channel) != want || !bytes.Equal(nonce, ours) {
		return nil, nil, errBinding
	}
	shown, err = b64.DecodeString(string(body[at+3:]))
	if err != nil || len(shown) != sha256.Size {
		return nil, nil, errScram
	}
	auth = bytes.Join([][]byte{x.bare, x.first, without}, []byte{','})
	return auth, shown, nil
}
