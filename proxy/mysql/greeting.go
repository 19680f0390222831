package mysql

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"

	"github.com/superserve/superserve/proxy/login"
)

// The capabilities that matter to a login. Both sides end up with the same ones, but
// for TLS, since what follows is relayed.
const (
	capWithDB       = 1 << 3
	capCompress     = 1 << 5
	cap41           = 1 << 9
	capTLS          = 1 << 11
	capSecure       = 1 << 15
	capPlugin       = 1 << 19
	capAttributes   = 1 << 20
	capLengthCoded  = 1 << 21
	capZstd         = 1 << 26
	capMultiFactors = 1 << 28
)

const (
	scrambleLen = 20
	greetingV10 = 10
)

// greeting is a server's first packet, HandshakeV10.
type greeting struct {
	version      []byte // with its zero
	thread       []byte
	scramble     []byte
	capabilities uint32
	charset      byte
	status       []byte
	reserved     []byte // MariaDB has capabilities of its own there
	plugin       string
}

// readGreeting reads the real server's. An error packet in its place is the agent's.
func readGreeting(up *packets) (*greeting, error) {
	body, err := up.read()
	if err != nil {
		return nil, err
	}
	if body[0] == packetError {
		return nil, newRejected(body)
	}
	g, err := parseGreeting(body)
	if err != nil {
		return nil, up.broken(errPacket)
	}
	return g, nil
}

func parseGreeting(body []byte) (*greeting, error) {
	end := bytes.IndexByte(body, 0) + 1
	if body[0] != greetingV10 || end < 2 || len(body) < end+31+13 {
		return nil, errPacket
	}
	rest := body[end:]
	g := &greeting{version: body[1:end], thread: rest[:4], charset: rest[15], status: rest[16:18], reserved: rest[21:31]}
	g.capabilities = uint32(binary.LittleEndian.Uint16(rest[13:])) | uint32(binary.LittleEndian.Uint16(rest[18:]))<<16
	g.scramble = append(bytes.Clone(rest[4:12]), rest[31:43]...)
	if g.capabilities&(cap41|capSecure) != cap41|capSecure {
		return nil, errPacket // older than MySQL 4.1
	}
	g.plugin = pluginNative
	if g.capabilities&capPlugin != 0 {
		name, _, _ := bytes.Cut(rest[44:], []byte{0}) // a zero ends the scramble; some leave out the name's
		g.plugin = string(name)
	}
	return g, nil
}

// local is the greeting that the agent gets: the real one with a scramble of ours, TLS,
// and without what would change the framing.
func (g *greeting) local() *greeting {
	mine := *g
	mine.scramble = []byte(rand.Text())[:scrambleLen] // no zero in it, as clients want
	mine.capabilities |= capTLS | capPlugin
	mine.capabilities &^= capCompress | capZstd | capMultiFactors
	if g.plugin != pluginSHA2 {
		mine.plugin = pluginNative
	}
	return &mine
}

func (g *greeting) encode() []byte {
	b := append([]byte{greetingV10}, g.version...)
	b = append(append(b, g.thread...), g.scramble[:8]...)
	b = append(b, 0)
	b = binary.LittleEndian.AppendUint16(b, uint16(g.capabilities))
	b = append(append(b, g.charset), g.status...)
	b = binary.LittleEndian.AppendUint16(b, uint16(g.capabilities>>16))
	b = append(append(b, scrambleLen+1), g.reserved...)
	b = append(append(b, g.scramble[8:]...), 0)
	return append(append(b, g.plugin...), 0)
}

// response is a client's HandshakeResponse41.
type response struct {
	capabilities uint32
	head         []byte // maximal packet, character set, reserved: 28 bytes
	user         string
	proof        []byte
	database     string
	plugin       string
	attributes   []byte // with their length
}

// readResponse reads the client's answer to our greeting, and ends its TLS first when
// it asks for that.
func readResponse(ctx context.Context, ses *login.Session, down *packets) (*response, error) {
	body, err := down.read()
	if err != nil {
		return nil, err
	}
	if len(body) == 32 && binary.LittleEndian.Uint32(body)&capTLS != 0 {
		if err := ses.Accept(ctx, ""); err != nil {
			return nil, err
		}
		down.side = ses.Client
		if body, err = down.read(); err != nil {
			return nil, err
		}
	}
	r, err := parseResponse(body)
	if err == nil && r.capabilities&(capCompress|capZstd|capMultiFactors) != 0 {
		err = errPacket // it takes what was not offered
	}
	if err != nil {
		return nil, down.broken(errPacket)
	}
	return r, nil
}

// parseResponse reads the packet with whatever parts its capabilities say.
func parseResponse(body []byte) (*response, error) {
	if len(body) < 33 {
		return nil, errPacket
	}
	r := &response{capabilities: binary.LittleEndian.Uint32(body), head: body[4:32], plugin: pluginNative}
	if r.capabilities&(cap41|capSecure) != cap41|capSecure {
		return nil, errPacket
	}
	c := &cursor{rest: body[32:]}
	r.user = c.text()
	r.proof = c.counted(r.capabilities&capLengthCoded != 0)
	if r.capabilities&capWithDB != 0 {
		r.database = c.text()
	}
	if r.capabilities&capPlugin != 0 {
		r.plugin = c.text()
	}
	if r.capabilities&capAttributes != 0 {
		before := c.rest
		c.counted(true)
		r.attributes = before[:len(before)-len(c.rest)]
	}
	if c.bad || r.user == "" {
		return nil, errPacket
	}
	return r, nil
}

// encode is the response to the real server, with another user and proof.
func (r *response) encode(capabilities uint32, user, plugin string, proof []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, capabilities)
	b = append(append(append(b, r.head...), user...), 0)
	b = append(append(b, byte(len(proof))), proof...) // also the length-coded form below 251
	if capabilities&capWithDB != 0 {
		b = append(append(b, r.database...), 0)
	}
	if capabilities&capPlugin != 0 {
		b = append(append(b, plugin...), 0)
	}
	if capabilities&capAttributes != 0 {
		b = append(b, r.attributes...)
	}
	return b
}

// cursor takes a packet apart. After a fault it returns nothing more.
type cursor struct {
	rest []byte
	bad  bool
}

// text reads up to a zero. MariaDB's clients leave out the last one of a packet.
func (c *cursor) text() string {
	text, rest, found := bytes.Cut(c.rest, []byte{0})
	c.bad = c.bad || !found && len(c.rest) == 0
	c.rest = rest
	return string(text)
}

// counted reads bytes after their number: one byte, or length-coded.
func (c *cursor) counted(coded bool) []byte {
	n, size, err := length(c.rest, coded)
	if err != nil || c.bad || n > uint64(len(c.rest)-size) {
		c.bad, c.rest = true, nil
		return nil
	}
	out := c.rest[size : size+int(n)]
	c.rest = c.rest[size+int(n):]
	return out
}

var errLength = errors.New("a length is malformed")

// length reads a number and how many bytes it takes.
func length(p []byte, coded bool) (n uint64, size int, err error) {
	if len(p) == 0 {
		return 0, 0, errLength
	}
	size = 1
	if coded && p[0] >= 0xfb {
		size = map[byte]int{0xfc: 3, 0xfd: 4, 0xfe: 9}[p[0]]
		if size == 0 || len(p) < size {
			return 0, 0, errLength
		}
		for i := size - 1; i > 0; i-- {
			n = n<<8 | uint64(p[i])
		}
		return n, size, nil
	}
	return uint64(p[0]), size, nil
}
