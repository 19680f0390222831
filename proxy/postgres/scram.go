package postgres

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strconv"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/superserve/superserve/secretd/locked"
)

// SCRAM-SHA-256 is RFC 5802 with the hash of RFC 7677. Postgres leaves the user's
// name in it empty and has it in the startup message.
const (
	scramPlain = "SCRAM-SHA-256"
	scramPlus  = "SCRAM-SHA-256-PLUS"
	bindingGS2 = "p=tls-server-end-point,,"
	nonceBytes = 18
	// maxIterations bounds the work that an upstream can ask for: 200 ms a million.
	maxIterations = 1 << 20
)

var b64 = base64.StdEncoding

// errScram is all that is ever said of a malformed message: its bytes stay out.
var errScram = errors.New("a SCRAM message is malformed")

func newNonce() string {
	var raw [nonceBytes]byte
	_, _ = rand.Read(raw[:]) // never fails, see New
	return b64.EncodeToString(raw[:])
}

func mac(key, message []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(message)
	return h.Sum(nil)
}

// salted is Hi of RFC 5802 §2.2: one block of PBKDF2. crypto/pbkdf2 takes the
// password as a string, which could not be wiped.
func salted(password, salt []byte, iterations int) []byte {
	h := hmac.New(sha256.New, password)
	h.Write(salt)
	h.Write(binary.BigEndian.AppendUint32(nil, 1))
	u := h.Sum(nil)
	out := bytes.Clone(u)
	for range iterations - 1 {
		h.Reset()
		h.Write(u)
		u = h.Sum(u[:0])
		for i := range out {
			out[i] ^= u[i]
		}
	}
	return out
}

// endPoint is the channel binding tls-server-end-point (RFC 5929 §4.1): the hash of
// the server's certificate, by its signature's own hash and never below SHA-256.
func endPoint(cert *x509.Certificate) []byte {
	switch cert.SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		sum := sha512.Sum384(cert.Raw)
		return sum[:]
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		sum := sha512.Sum512(cert.Raw)
		return sum[:]
	case x509.PureEd25519:
		return nil // RFC 5929 defines none
	}
	sum := sha256.Sum256(cert.Raw)
	return sum[:]
}

// attribute reads "KEY=value" up to a comma and returns what follows the comma.
func attribute(p []byte, key byte) (value, rest []byte, err error) {
	if len(p) < 2 || p[0] != key || p[1] != '=' {
		return nil, nil, errScram
	}
	value, rest, _ = bytes.Cut(p[2:], []byte{','})
	return value, rest, nil
}

// scramClient is our end of the login at the real server. It is for one login.
type scramClient struct {
	password    []byte // prepared; wiped by final
	mechanism   string
	gs2         string
	bindingData []byte
	bare        string // client-first-message-bare
	nonce       string
	auth        []byte // AuthMessage
	serverKey   []byte
}

func newScramClient(password []byte) *scramClient {
	c := &scramClient{password: prepare(password), mechanism: scramPlain, gs2: "n,,", nonce: newNonce()}
	c.bare = "n=,r=" + c.nonce
	return c
}

func (c *scramClient) bind(data []byte) {
	c.mechanism, c.gs2, c.bindingData = scramPlus, bindingGS2, data
}

// first returns the body of SASLInitialResponse.
func (c *scramClient) first() []byte {
	message := c.gs2 + c.bare
	body := append([]byte(c.mechanism), 0)
	body = binary.BigEndian.AppendUint32(body, uint32(len(message)))
	return append(body, message...)
}

// final answers server-first-message. It uses up the password.
func (c *scramClient) final(first []byte) ([]byte, error) {
	defer locked.Wipe(c.password)
	nonce, rest, err := attribute(first, 'r')
	if err != nil || !bytes.HasPrefix(nonce, []byte(c.nonce)) || len(nonce) == len(c.nonce) {
		return nil, errScram
	}
	encoded, rest, err := attribute(rest, 's')
	if err != nil {
		return nil, err
	}
	salt, err := b64.DecodeString(string(encoded))
	if err != nil || len(salt) == 0 {
		return nil, errScram
	}
	count, _, err := attribute(rest, 'i')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(string(count))
	if err != nil || n < 1 || n > maxIterations {
		return nil, errScram
	}
	return c.prove(first, nonce, salted(c.password, salt, n)), nil
}

func (c *scramClient) prove(first, nonce, secret []byte) []byte {
	defer locked.Wipe(secret)
	channel := append([]byte(c.gs2), c.bindingData...)
	without := "c=" + b64.EncodeToString(channel) + ",r=" + string(nonce)
	c.auth = []byte(c.bare + "," + string(first) + "," + without)
	clientKey := mac(secret, []byte("Client Key"))
	stored := sha256.Sum256(clientKey)
	c.serverKey = mac(secret, []byte("Server Key"))
	proof := mac(stored[:], c.auth)
	for i := range proof {
		proof[i] ^= clientKey[i]
	}
	locked.Wipe(clientKey)
	return []byte(without + ",p=" + b64.EncodeToString(proof))
}

// verify reports whether the server proved that it knows the password.
func (c *scramClient) verify(final []byte) bool {
	value, _, err := attribute(final, 'v')
	if err != nil {
		return false
	}
	signature, err := b64.DecodeString(string(value))
	return err == nil && hmac.Equal(signature, mac(c.serverKey, c.auth))
}

// prepare is SASLprep (RFC 4013) as far as servers do it: ASCII stays, spaces become
// one kind, what is mapped to nothing goes, the rest is normalised. What is not UTF-8
// is taken as it is. The result is the caller's.
func prepare(password []byte) []byte {
	ascii := true
	for _, c := range password {
		ascii = ascii && c < 0x80
	}
	if ascii || !utf8.Valid(password) {
		return bytes.Clone(password)
	}
	mapped := bytes.Map(mapRune, password)
	defer locked.Wipe(mapped)
	out := norm.NFKC.Bytes(mapped)
	return bytes.Clone(out)
}

// mapRune is the mapping of RFC 3454 tables C.1.2 and B.1.
func mapRune(r rune) rune {
	switch {
	case r == 0xa0, r == 0x1680, r >= 0x2000 && r <= 0x200a, r == 0x202f, r == 0x205f, r == 0x3000:
		return ' '
	case r == 0xad, r == 0x34f, r == 0x1806, r >= 0x180b && r <= 0x180d, r >= 0x200b && r <= 0x200d,
		r == 0x2060, r >= 0xfe00 && r <= 0xfe0f, r == 0xfeff:
		return -1
	}
	return r
}
